"""Jobs: admission, dispatch, lifecycle and events."""

# Names that external scripts import from here.
from impasto_server.domain.job import Job, JobSpec, OutputOptions
from impasto_server.domain.pictures import Raster

__all__ = ["Job", "JobSpec", "OutputOptions", "Raster"]
