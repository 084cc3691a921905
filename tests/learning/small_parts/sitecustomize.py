"""Put on a child's path, this makes the stage feature_extract write parts of 8 rows; a file ``kill`` beside it kills the child."""

import os
import signal
import time
from pathlib import Path

from transfer_learning.blocks.feature_parts import PartWriter
from transfer_learning.stages import feature_extract

feature_extract.WINDOW = 8
take = PartWriter.add


def take_and_close(self, hashes, features):
    take(self, hashes, features)
    self.close_part()
    if Path(__file__).with_name("kill").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.3)  # so that the parent sees the part before the last one


PartWriter.add = take_and_close
