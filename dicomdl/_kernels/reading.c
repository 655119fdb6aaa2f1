/* Pieces of many files, read into one block. */
#include "kernels.h"

PyMethodDef reading_methods[] = {
    {NULL, NULL, 0, NULL},
};
