"""Which runs are there, how far are they, and what can be done with each?"""

from explorer.ui import runs

runs.show()
