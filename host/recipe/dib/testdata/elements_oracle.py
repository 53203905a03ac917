"""What the real diskimage-builder expands requests for elements to.

Arguments: the directory of the package, then requests, names separated by
blanks. Prints one JSON object per request: the elements, or the error.
"""
import json
import logging
import os
import sys

sys.path.insert(0, sys.argv[1])
logging.disable(logging.CRITICAL)

from diskimage_builder import element_dependencies  # noqa: E402

PATH = os.path.join(sys.argv[1], "diskimage_builder", "elements")

for request in sys.argv[2:]:
    try:
        found = element_dependencies.get_elements(request.split(), PATH)
        print(json.dumps({"elements": sorted(name for name, _ in found)}))
    except Exception as error:
        print(json.dumps({"error": str(error)}))
