/* Code that differs between interpreters or needs their headers: whether a thread holds the GIL, and
 * guarded calls, through which no thread is unwound when the interpreter ends. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <unistd.h>

/* Whether a thread holds the GIL. Any thread may ask, without the GIL; `tstate` must be alive. */
int threadlets_holds_gil(PyThreadState *tstate)
{
#if PY_VERSION_HEX >= 0x030D0000
    return __atomic_load_n(&tstate->state, __ATOMIC_ACQUIRE) == 1; /* _Py_THREAD_ATTACHED */
#elif PY_VERSION_HEX >= 0x030C0000
    return ((volatile PyThreadState *)tstate)->_status.active;
#else
    return _PyThreadState_UncheckedGet() == tstate;
#endif
}

/* Whether the interpreter is ending, so that no other thread gets the GIL any more. */
int threadlets_is_finalizing(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

/* Whether the interpreter is ending or has ended. */
int threadlets_has_ended(void)
{
    return threadlets_is_finalizing() || !Py_IsInitialized();
}

/* The current context, borrowed; null in a thread in which no variable was ever set. */
PyObject *threadlets_context(void)
{
    return PyThreadState_Get()->context;
}

#if PY_VERSION_HEX >= 0x030E0000
/* A thread state holds the loop that runs in the thread, and in the next word that loop's current task.
 * Their place is not a public interface, so it is searched for; it is counted in words from the end of the
 * public part. */
static size_t running_loop_at;

/* Find the place, on a thread in which both are set. Zero: they are not in the words that are searched. */
int threadlets_find_running(PyObject *loop, PyObject *task)
{
    PyObject **words = (PyObject **)(PyThreadState_Get() + 1);
    for (running_loop_at = 0; running_loop_at < 32; running_loop_at++)
        if (words[running_loop_at] == loop && words[running_loop_at + 1] == task)
            return 1;
    return 0;
}

/* The place of the list of the tasks that were made in a thread, further on in its state. */
static size_t tasks_at;

/* Find the list, after asyncio has entered this task in it last, and others before. Returns the offset of the
 * link in the task, or -1. */
Py_ssize_t threadlets_find_tasks(PyObject *task)
{
    uintptr_t *words = (uintptr_t *)(PyThreadState_Get() + 1);
    for (tasks_at = running_loop_at + 2; tasks_at < 40; tasks_at++) {
        /* The list is a circle: its second word points to the last task's link, whose first word points
         * back. */
        uintptr_t into = words[tasks_at + 1] - (uintptr_t)task;
        if (into < 1024 && *(uintptr_t *)words[tasks_at + 1] == (uintptr_t)&words[tasks_at])
            return into;
    }
    return -1;
}

void *threadlets_tasks(void)
{
    return (void **)(PyThreadState_GetUnchecked() + 1) + tasks_at;
}

/* The word with the current task of `loop` in a thread, or in this one if `tstate` is null. Null: another
 * loop runs there, or none. */
PyObject **threadlets_running_task(PyThreadState *tstate, PyObject *loop)
{
    PyObject **words = (PyObject **)((tstate ? tstate : PyThreadState_GetUnchecked()) + 1);
    return words[running_loop_at] == loop ? words + running_loop_at + 1 : NULL;
}
#endif

/* Before CPython 3.14, a thread that wants the GIL while the interpreter ends is made to exit by
 * unwinding its stack; 3.14 lets it hang. Rust frames must not be unwound like that, so the thread
 * hangs in the first frame of this library that is reached, without the GIL; the process ends soon.
 *
 * That frame is one of the functions below: the linker replaces the interpreter's functions with them
 * (`--wrap`, see build.rs), for all code of this library, PyO3's included. A call that returns costs
 * a stack frame and no more: the guard is in the unwinder's tables. */
static void hang_if_unwound(int *is_inside)
{
    while (*is_inside)
        pause();
}

#define GUARD __attribute__((cleanup(hang_if_unwound))) int is_inside = 1
#define HIDDEN __attribute__((visibility("hidden")))

#define CALL(result, name, parameters, arguments)                                                   \
    extern result(name) parameters; /* is checked against the header, if that declares it */        \
    extern result __real_##name parameters;                                                         \
    HIDDEN result __wrap_##name parameters                                                          \
    {                                                                                               \
        GUARD;                                                                                      \
        result value = __real_##name arguments;                                                     \
        is_inside = 0;                                                                              \
        return value;                                                                               \
    }
#define DO(name, parameters, arguments)                                                             \
    extern void(name) parameters;                                                                   \
    extern void __real_##name parameters;                                                           \
    HIDDEN void __wrap_##name parameters                                                            \
    {                                                                                               \
        GUARD;                                                                                      \
        __real_##name arguments;                                                                    \
        is_inside = 0;                                                                              \
    }
#define CALL0(result, name) CALL(result, name, (void), ())
#define CALL1(result, name, A) CALL(result, name, (A a), (a))
#define CALL2(result, name, A, B) CALL(result, name, (A a, B b), (a, b))
#define CALL3(result, name, A, B, C) CALL(result, name, (A a, B b, C c), (a, b, c))
#define CALL4(result, name, A, B, C, D) CALL(result, name, (A a, B b, C c, D d), (a, b, c, d))
#define CALL5(result, name, A, B, C, D, E) CALL(result, name, (A a, B b, C c, D d, E e), (a, b, c, d, e))
#define DO0(name) DO(name, (void), ())
#define DO1(name, A) DO(name, (A a), (a))
#define DO2(name, A, B) DO(name, (A a, B b), (a, b))
#define DO3(name, A, B, C) DO(name, (A a, B b, C c), (a, b, c))
#include "python_calls.h"

/* Calls through pointers that the interpreter gave are guarded where the pointer comes from, or below. */

#if PY_VERSION_HEX < 0x030C0000
/* PyO3 asks for a callable's vectorcall function and calls it, so it gets a guarded one. */
HIDDEN vectorcallfunc __wrap_PyVectorcall_Function(PyObject *callable)
{
    (void)callable;
    return __wrap_PyObject_Vectorcall;
}

/* PyO3 makes an object by its type's `tp_alloc`, which every class inherits from the interpreter. Allocating
 * may collect garbage before CPython 3.12, so native classes get a guarded `tp_alloc` when they are made, and
 * classes that inherit from them in Python get it when their first instance is made. */
static struct {
    PyTypeObject *type;
    newfunc make;
} bases[8];

static PyObject *make_guarded(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (type->tp_alloc == __real_PyType_GenericAlloc)
        type->tp_alloc = __wrap_PyType_GenericAlloc;
    for (PyTypeObject *base = type;; base = base->tp_base)
        for (size_t i = 0; i < sizeof bases / sizeof *bases && bases[i].type; i++)
            if (bases[i].type == base)
                return bases[i].make(type, args, kwargs);
}

extern PyObject *__real_PyType_FromSpec(PyType_Spec *spec);

HIDDEN PyObject *__wrap_PyType_FromSpec(PyType_Spec *spec)
{
    GUARD;
    PyTypeObject *type = (PyTypeObject *)__real_PyType_FromSpec(spec);
    is_inside = 0;
    if (!type)
        return NULL;
    type->tp_alloc = __wrap_PyType_GenericAlloc;
    if (PyType_HasFeature(type, Py_TPFLAGS_BASETYPE)) {
        size_t i = 0;
        while (bases[i].type)
            if (++i == sizeof bases / sizeof *bases)
                Py_FatalError("`bases` is full; make room for one more class that can be inherited from");
        bases[i].type = type;
        bases[i].make = type->tp_new;
        type->tp_new = make_guarded;
    }
    return (PyObject *)type;
}
#endif

PyObject *threadlets_get_attribute(getattrofunc get, PyObject *object, PyObject *name)
{
    GUARD;
    PyObject *value = get(object, name);
    is_inside = 0;
    return value;
}

int threadlets_set_attribute(setattrofunc set, PyObject *object, PyObject *name, PyObject *value)
{
    GUARD;
    int status = set(object, name, value);
    is_inside = 0;
    return status;
}

/* Free a call. Calls can be arguments of calls to any depth, so the interpreter's trash can limits how
 * deep the stack gets. */
extern void threadlets_free_call(PyObject *call);

void threadlets_dealloc_call(PyObject *call)
{
    PyObject_GC_UnTrack(call);
    Py_TRASHCAN_BEGIN(call, threadlets_dealloc_call)
    threadlets_free_call(call);
    Py_TRASHCAN_END
}
