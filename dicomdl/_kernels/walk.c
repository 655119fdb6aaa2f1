/* The walk over the elements of a header. */
#include "kernels.h"

PyMethodDef walk_methods[] = {
    {NULL, NULL, 0, NULL},
};
