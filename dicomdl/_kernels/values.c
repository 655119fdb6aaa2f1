/* Stored values to modality values and network values, in one pass. */
#include "kernels.h"

PyMethodDef values_methods[] = {
    {NULL, NULL, 0, NULL},
};
