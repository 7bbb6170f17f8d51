"""What does one sample teach? Fine-tune on it, see what changes elsewhere, and test how the model learns.

Numbers only: `teaching` makes them, `desiderata` says what they mean, `world` and `language` bring sentences. It reads
and writes no run, and knows no page.
"""
