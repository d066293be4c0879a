from .class_names import ClassList
from .faults import BadImage, BadSample, DataError
from .formats import open_source
from .images import decode_image
from .samples import Sample, Source
from .shards.files import ShardCache, check_url, open_location
from .shards.paths import expand_shards
from .shards.webdataset import sample_from_files
from .templates import DEFAULT_TEMPLATES, TEMPLATES_FILE, fill_templates, read_templates

__all__ = [
    "DEFAULT_TEMPLATES",
    "TEMPLATES_FILE",
    "BadImage",
    "BadSample",
    "ClassList",
    "DataError",
    "Sample",
    "ShardCache",
    "Source",
    "check_url",
    "decode_image",
    "expand_shards",
    "fill_templates",
    "open_location",
    "open_source",
    "read_templates",
    "sample_from_files",
]
