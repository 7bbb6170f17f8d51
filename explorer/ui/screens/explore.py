"""Which training examples made the model say that? The list, the map, and the answer to the chosen prediction."""

from explorer.ui import explore, frame

run = frame.header()
if run is not None:
    explore.show(run)
