/* What the files of the compiled module share: the limited API of CPython 3.11, one table of
 * functions per file, and one rule: memory comes in as buffers, whose bounds are checked before the
 * interpreter lock is released. No function allocates by a number that it has not compared with the
 * size of what it was given.
 *
 * No format of PyArg_ParseTuple and Py_BuildValue has a '#': a module that is built with the headers
 * of 3.13 calls other functions for it than 3.11 and 3.12 expect. */
#ifndef DICOMDL_KERNELS_H
#define DICOMDL_KERNELS_H

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

/* Each ends with an entry of zeros. */
extern PyMethodDef reading_methods[];
extern PyMethodDef values_methods[];
extern PyMethodDef walk_methods[];

#endif
