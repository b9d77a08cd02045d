"""The process that answers: `python -m dist_oaa.stages.examining.answering '["cuda"]' ...`.

Prints one line of JSON for each question, as soon as it is answered.
"""

import importlib
import json
import os
import sys
import time
from typing import Any

# name -> (module, function); imported when asked, since an import may be what fails.
QUESTIONS = {
    "import": ("dist_oaa.stages.examining.torch_facts", "import_of"),
    "cuda": ("dist_oaa.stages.examining.torch_facts", "cuda"),
    "backends": ("dist_oaa.stages.examining.torch_facts", "backends"),
    "native": ("dist_oaa.stages.examining.torch_facts", "native_problem"),
    "triton": ("dist_oaa.stages.examining.triton_facts", "compilation"),
    "shard": ("dist_oaa.stages.examining.store_trial", "shard"),
    "accumulation": ("dist_oaa.stages.examining.device_trials", "accumulation"),
    "network": ("dist_oaa.stages.examining.device_trials", "network"),
}


def answer(name: str, *arguments: str) -> dict[str, Any]:
    """The fields of asking.Answer."""
    start = time.perf_counter()
    try:
        module, function = QUESTIONS[name]
        asked = getattr(importlib.import_module(module), function)
        start = time.perf_counter()
        return {"value": asked(*arguments), "seconds": time.perf_counter() - start}
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return {"error": reason, "seconds": time.perf_counter() - start}


def main() -> None:
    """Answers the questions of the command line."""
    # What libraries print goes to standard error: the pipe is for answers alone.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as pipe:
        os.dup2(2, 1)
        for question in sys.argv[1:]:
            print(json.dumps(answer(*json.loads(question))), file=pipe, flush=True)


if __name__ == "__main__":
    main()
