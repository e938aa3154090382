"""Restore one photo: python examples/edit_python.py rainy.jpg "remove the rain" restored.png"""

import os
import sys
from pathlib import Path

from service.client import Client

photo, instruction, output = sys.argv[1:4]
with Client(os.environ.get("DIFFPLUGIN_URL", "http://127.0.0.1:8000")) as client:
    result = client.edit(Path(photo), instruction)
Path(output).write_bytes(result.image)
print("plan:", ", ".join(result.plan.runnable) or "nothing to do", "- seed:", result.seed)
