from . import idc as idc
