"""What else can the panel say? One module for each part beside the answer, and what several of them need."""
