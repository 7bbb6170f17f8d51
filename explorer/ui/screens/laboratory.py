"""What does one sample teach the model, and does it learn the way one would wish?"""

from explorer.ui import frame, laboratory

run = frame.header()
if run is not None:
    laboratory.show(run)
