"""Which training examples did the model memorize rather than learn, and do they help or harm others?"""

from explorer.ui import frame, memorized

run = frame.header()
if run is not None:
    memorized.show(run)
