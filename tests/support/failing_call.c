// A Python module: a call of which an allocation fails. Nothing in Python may allocate between the
// order to fail and the call, or between its end and the order to stop.
#include <Python.h>

void fail_allocation(long number, long all_later);
long failed_allocations(void);

// attempt(function, number, all_later): (exception or None, allocations that failed).
static PyObject* attempt(PyObject* self, PyObject* args) {
  (void)self;
  PyObject* function;
  long number, all_later;
  if (!PyArg_ParseTuple(args, "Oll", &function, &number, &all_later)) return NULL;
  fail_allocation(number, all_later);
  PyObject* result = PyObject_CallNoArgs(function);
  const long failures = failed_allocations();
  fail_allocation(0, 0);
  if (result) {
    Py_DECREF(result);
    return Py_BuildValue("(Ol)", Py_None, failures);
  }
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  if (!value) value = Py_NewRef(Py_NotImplemented);  // an error without an exception
  PyObject* pair = Py_BuildValue("(Ol)", value, failures);
  Py_XDECREF(type);
  Py_XDECREF(value);
  Py_XDECREF(traceback);
  return pair;
}

static PyMethodDef functions[] = {{"attempt", attempt, METH_VARARGS, ""}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "failing_call", "", -1, functions,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_failing_call(void) { return PyModule_Create(&module); }
