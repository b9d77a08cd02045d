"""Whether the fast paths of the accumulation are there: Triton on GPUs, C++ on CPUs."""

from dist_oaa.stages.examining.asking import Answer
from dist_oaa.stages.examining.finding import Finding


def native(answer: Answer) -> Finding:
    """The C++ update.

    Args:
        answer: to `native`; its value is why the update cannot be used.
    """
    advice = "Install a C++ compiler (g++) and dist_oaa again; the maps are the same without."
    if answer.error:
        found = f"not known: {answer.error}"
        return Finding("C++ update", found, "warning", "Mend torch first: the update needs it.")
    if answer.value:
        return Finding("C++ update", f"{answer.value}; PyTorch is used", "warning", advice)
    return Finding("C++ update", "built")


def triton(answer: Answer, has_gpu: bool) -> Finding:
    """Whether Triton compiles, which GPUs need.

    Args:
        answer: to `triton`.
    """
    if answer.error:
        if not has_gpu:
            return Finding("Triton", f"cannot be used ({answer.error}); only GPUs need it")
        advice = "Install the triton that belongs to this torch: accumulation on GPUs needs it."
        return Finding("Triton", f"cannot be used: {answer.error}", "problem", advice)
    facts = answer.value
    if facts["interpreted"]:
        found = "interprets kernels, as TRITON_INTERPRET says"
        if not has_gpu:
            return Finding("Triton", found, facts=facts)
        advice = "Unset TRITON_INTERPRET: kernels on GPUs shall be compiled."
        return Finding("Triton", found, "warning", advice, facts=facts)
    state = "problem" if has_gpu else "warning"
    if facts["error"]:
        advice = "See whether TRITON_CACHE_DIR (~/.triton) can be written; only GPUs need Triton."
        return Finding("Triton", f"cannot compile: {facts['error']}", state, advice, facts=facts)
    found = f"compiles for {facts['target']}"
    if not facts["c_compiler"]:
        advice = "Install gcc or set CC: Triton builds the start of its kernels with it."
        found += ", but finds no C compiler"
        if not has_gpu:
            return Finding("Triton", f"{found}; only GPUs need one", facts=facts)
        return Finding("Triton", found, "problem", advice, facts=facts)
    return Finding("Triton", f"{found}; C compiler {facts['c_compiler']}", facts=facts)
