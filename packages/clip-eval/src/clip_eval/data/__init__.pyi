from .class_names import ClassList
from .faults import BadImage, BadSample, DataError, Fault
from .formats import (
    FORMATS,
    Format,
    absolute_source,
    is_missing,
    open_source,
    register_format,
)
from .images import decode_image, image_suffix, read_image_size
from .inspect import Summary, summarize
from .readers.streamed_tar import StreamedFiles, stream_tar
from .readers.webdataset import sample_from_files
from .samples import Sample, Source
from .shards.cache import ShardCache
from .shards.paths import expand_shards
from .templates import DEFAULT_TEMPLATES, TEMPLATES_FILE, fill_templates, read_templates
from .urls import check_url, open_location

__all__ = [
    "DEFAULT_TEMPLATES",
    "FORMATS",
    "TEMPLATES_FILE",
    "BadImage",
    "BadSample",
    "ClassList",
    "DataError",
    "Fault",
    "Format",
    "Sample",
    "ShardCache",
    "Source",
    "StreamedFiles",
    "Summary",
    "absolute_source",
    "check_url",
    "decode_image",
    "expand_shards",
    "fill_templates",
    "image_suffix",
    "is_missing",
    "open_location",
    "open_source",
    "read_image_size",
    "read_templates",
    "register_format",
    "sample_from_files",
    "stream_tar",
    "summarize",
]
