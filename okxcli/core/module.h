/* What makes a module of Python of a kernel. Include this first: it brings Python.h. */
#ifndef OKX_MODULE_H
#define OKX_MODULE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "scan.h"

/* Whether an offset lies in a block; if not, the error is set. */
static inline int in_block(Py_ssize_t at, const Py_buffer *block) {
    if (at >= 0 && at <= block->len) return 1;
    PyErr_SetString(PyExc_ValueError, "an offset outside of the block");
    return 0;
}

/* The module `_NAME` with its methods (or NULL); `more` adds what else it has (or NULL), and returns -1 with an error. */
#define KERNEL_MODULE(name, doc, methods, more)                                                                     \
    static int add_kernel(PyObject *module) {                                                                       \
        int (*rest)(PyObject *) = more;                                                                             \
        if (PyModule_AddIntConstant(module, "KERNEL", KERNEL) < 0) return -1;                                       \
        return rest ? rest(module) : 0;                                                                             \
    }                                                                                                               \
    static PyModuleDef_Slot kernel_slots[] = {{Py_mod_exec, (void *)add_kernel}, {0, NULL}};                        \
    static struct PyModuleDef kernel_module = {                                                                     \
        PyModuleDef_HEAD_INIT, "_" #name, doc, 0, methods, kernel_slots, NULL, NULL, NULL,                          \
    };                                                                                                              \
    PyMODINIT_FUNC PyInit__##name(void);                                                                            \
    PyMODINIT_FUNC PyInit__##name(void) { return PyModuleDef_Init(&kernel_module); }

#endif
