"""Making ordinary runs of the stages, one after another: shared by tables and pipelines."""
