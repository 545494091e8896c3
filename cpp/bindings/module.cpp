// The Python module cpuattn._core: fast calls by position into the core.
#include <pybind11/stl.h>

#include <exception>
#include <new>
#include <stdexcept>
#include <system_error>

#include "arguments.hpp"
#include "commit.hpp"
#include "kv_state.hpp"
#include "store.hpp"
#include "unlocked.hpp"

namespace cpuattn {
namespace {

namespace py = pybind11;

// A call of the core, without the GIL. Ctrl-C is looked for about every 50 ms, by taking the GIL
// back for a moment: the handlers run and may raise.
class CoreCall {
 public:
  explicit CoreCall(Options& options) {
    options.should_stop = [](void* context) {
      return static_cast<CoreCall*>(context)->unlocked_.locked(
          [] { return PyErr_CheckSignals() != 0; });
    };
    options.stop_context = this;
  }

 private:
  Unlocked unlocked_;
};

bool is_out_of_memory(const std::system_error& error) {
  return error.code() == std::errc::not_enough_memory ||
         error.code() == std::errc::resource_unavailable_try_again;
}

// Runs f and turns C++ exceptions into Python's. Interrupted: the handler has raised already.
template <class F>
PyObject* guarded(F f) {
  try {
    return f().release().ptr();
  } catch (const Interrupted&) {
    return nullptr;
  } catch (py::error_already_set& e) {
    e.restore();
  } catch (const py::builtin_exception& e) {
    e.set_error();
  } catch (const std::invalid_argument& e) {
    PyErr_SetString(PyExc_ValueError, e.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::length_error&) {  // of a container larger than any memory
    PyErr_NoMemory();
  } catch (const std::system_error& e) {  // of a thread or lock, for which memory may be lacking
    PyErr_SetString(is_out_of_memory(e) ? PyExc_MemoryError : PyExc_RuntimeError, e.what());
  } catch (const std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
  }
  return nullptr;
}

void expect(Py_ssize_t got, Py_ssize_t wanted) {
  if (got != wanted) {
    throw py::type_error("takes " + std::to_string(wanted) + " arguments by position, got " +
                         std::to_string(got));
  }
}

// The shape of a result: the batch, then the query heads, query length and columns; as many of
// the last dimensions as the call has. Of packed sequences: (total, heads, columns).
View result_shape(const Shapes& s, const Arguments& parsed, std::ptrdiff_t columns) {
  View view;
  if (parsed.options.cu_seqlens_q) {
    view.rank = 3;
    view.shape[0] = parsed.query.shape[0];
    view.shape[1] = s.query_heads;
    view.shape[2] = columns;
    return view;
  }
  std::ptrdiff_t full[kMaxRank + 3];
  int n = 0;
  for (; n < s.batch_rank; ++n) full[n] = s.batch_shape[n];
  full[n++] = s.query_heads;
  full[n++] = s.query_length;
  full[n++] = columns;
  view.rank = s.rank;
  for (int i = 0; i < s.rank; ++i) view.shape[i] = full[n - s.rank + i];
  return view;
}

// out=, or a new array of query's dtype.
py::object result_array(PyObject* out, Arguments& parsed, const View& shape, View& output) {
  return out == Py_None ? new_array(parsed.query.dtype, shape.rank, shape.shape, output)
                        : take_output(out, parsed, output);
}

PyObject* core_attention(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return guarded([&]() -> py::object {
    expect(count, kNumArguments);
    Arguments parsed;
    parse_inputs(args, true, parsed);
    const bool with_lse = parse_bool(args[kReturnLse], "return_lse");
    const Shapes shapes = infer_shapes(parsed.query, parsed.key, &parsed.value, parsed.options);
    const View shape = result_shape(shapes, parsed, shapes.value_dim);
    View output, lse;
    py::object result = result_array(args[kOut], parsed, shape, output);
    py::object row_lse;
    if (with_lse) {
      row_lse = new_array(compute_dtype(parsed.query.dtype), shape.rank - 1, shape.shape, lse);
    }
    {
      const CoreCall call(parsed.options);
      attention(parsed.query, parsed.key, parsed.value, output, row_lse ? &lse : nullptr,
                parsed.options);
    }
    if (row_lse) return py::make_tuple(std::move(result), std::move(row_lse));
    return result;
  });
}

WeightStage parse_stage(PyObject* object) {
  const auto stage = py::reinterpret_borrow<py::object>(object);
  if (PyUnicode_Check(object)) {
    const auto name = stage.cast<std::string>();
    if (name == "scores") return WeightStage::kScores;
    if (name == "softcapped") return WeightStage::kSoftcapped;
    if (name == "masked") return WeightStage::kMasked;
    if (name == "weights") return WeightStage::kWeights;
  }
  throw py::value_error("stage is " + std::string(py::repr(stage)) +
                        "; it must be 'scores', 'softcapped', 'masked' or 'weights'");
}

PyObject* core_attention_weights(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return guarded([&]() -> py::object {
    expect(count, kNumCommon);
    Arguments parsed;
    const WeightStage stage = parse_stage(args[kValue]);
    parse_inputs(args, false, parsed);
    const Shapes shapes = infer_shapes(parsed.query, parsed.key, nullptr, parsed.options);
    const View shape = result_shape(shapes, parsed, shapes.key_length);
    View output;
    py::object result = result_array(args[kOut], parsed, shape, output);
    {
      const CoreCall call(parsed.options);
      attention_weights(parsed.query, parsed.key, output, stage, parsed.options);
    }
    return result;
  });
}

py::dict plan_of(const Explanation& pass, const std::vector<std::string>& copies) {
  py::dict plan;
  plan["kernel"] = pass.kernel;
  plan["isa"] = pass.isa;
  plan["products"] = pass.products;
  plan["query_block"] = pass.query_block;
  plan["key_block"] = pass.key_block;
  plan["key_chunk"] = pass.key_chunk;
  plan["num_chunks"] = pass.num_chunks;
  plan["work_items"] = pass.work_items;
  plan["threads"] = pass.threads;
  plan["scratch_bytes"] = pass.scratch_bytes;
  plan["copies"] = py::cast(copies);
  return plan;
}

PyObject* core_explain(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return guarded([&]() -> py::object {
    expect(count, kNumCommon);
    Arguments parsed;
    parse_inputs(args, true, parsed);
    View output;
    const bool given = args[kOut] != Py_None;
    if (given) take_output(args[kOut], parsed, output);
    py::list plans;
    for (const auto& pass : explain(parsed.query, parsed.key, parsed.value,
                                    given ? &output : nullptr, parsed.options)) {
      plans.append(plan_of(pass, parsed.copies));
    }
    return plans;
  });
}

PyObject* core_append_tokens(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return guarded([&]() -> py::object {
    expect(count, kNumAppendArguments);
    return append_tokens(args);
  });
}

PyObject* core_store_tokens(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return guarded([&]() -> py::object {
    expect(count, kNumStoreArguments);
    return store_tokens(args);
  });
}

PyObject* core_appended_state(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return guarded([&]() -> py::object {
    expect(count, 3);
    return appended_state(args[0], args[1], args[2]);
  });
}

PyObject* core_replace_state(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return guarded([&]() -> py::object {
    expect(count, 3);
    return py::bool_(replace_state(args[0], args[1], args[2]));
  });
}

PyObject* core_undo(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return guarded([&]() -> py::object {
    expect(count, 3);
    return undo(args[0], args[1], args[2]);
  });
}

PyObject* core_attempt(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return guarded([&]() -> py::object {
    expect(count, 3);
    return attempt(args[0], args[1], args[2]);
  });
}

PyObject* core_address(PyObject*, PyObject* const* args, Py_ssize_t count) {
  return guarded([&]() -> py::object {
    expect(count, 1);
    View view;
    if (!is_plain_array(args[0]) || !view_of(args[0], view)) {
      throw py::type_error("takes a NumPy array");
    }
    return py::reinterpret_steal<py::object>(PyLong_FromVoidPtr(view.data));
  });
}

py::dict config() {
  py::dict result;
  result["version"] = CPUATTN_VERSION;
  result["compiler"] = __VERSION__;
  result["threads_by"] = threads_name();
  result["isas_compiled"] = py::cast(compiled_isa_names());
  result["isas_available"] = py::cast(isa_names());
  result["isa"] = isa_name();
  result["num_threads"] = get_num_threads();
  return result;
}

double fma_peak(const std::string& dtype, double seconds) {
  const DType type = dtype == "float64"    ? DType::kFloat64
                     : dtype == "bfloat16" ? DType::kBFloat16
                                           : DType::kFloat32;
  const Unlocked unlocked;
  return measure_peak(type, seconds) / 1e9;
}

double read_rate(const py::array_t<float, py::array::c_style>& data, double seconds) {
  const float* first = data.data();
  const py::ssize_t count = data.size();
  const Unlocked unlocked;
  return measure_reads(first, count, seconds) / 1e9;
}

PyMethodDef fast_functions[] = {
    {"attention", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(core_attention)),
     METH_FASTCALL, "See cpuattn.attention."},
    {"attention_weights",
     reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(core_attention_weights)),
     METH_FASTCALL, "See cpuattn.attention_weights."},
    {"explain", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(core_explain)),
     METH_FASTCALL, "See cpuattn.explain."},
    {"append_tokens",
     reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(core_append_tokens)), METH_FASTCALL,
     "See cpuattn.KVCache.append."},
    {"store_tokens", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(core_store_tokens)),
     METH_FASTCALL, "Writes keys and values into a cache, rounded or quantised."},
    {"address", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(core_address)),
     METH_FASTCALL, "Where the first element of an array lies in memory."},
    {"undo", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(core_undo)), METH_FASTCALL,
     "Makes an object that takes back a commit when it is dropped."},
    {"attempt", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(core_attempt)),
     METH_FASTCALL, "Calls a function, and takes back a commit if it raises."},
    {"appended_state",
     reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(core_appended_state)),
     METH_FASTCALL, "See cpuattn.cache.kv_state.KVState.appended."},
    {"replace_state",
     reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(core_replace_state)), METH_FASTCALL,
     "Commits the next state of a cache, if it is still in the one before."},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace
}  // namespace cpuattn

PYBIND11_MODULE(_core_of_main, m, pybind11::mod_gil_not_used()) {
  namespace py = pybind11;
  if (PyModule_AddFunctions(m.ptr(), cpuattn::fast_functions) != 0) throw py::error_already_set();
  m.attr("__version__") = CPUATTN_VERSION;
  m.def("ignored_threads", &cpuattn::ignored_num_threads,
        "OMP_NUM_THREADS='...' if that is no number of threads, else an empty string.");
  m.def("config", &cpuattn::config, "What was compiled, what this CPU can run, what is used.");
  m.def("isas", &cpuattn::isa_names, "Instruction sets that can run here, best first.");
  m.def("_use_isa", &cpuattn::use_isa_name, py::arg("name"),
        "Switches the instruction set of the whole process, for tests and benchmarks.");
  m.def("_fma_peak", &cpuattn::fma_peak, py::arg("dtype"), py::arg("seconds"),
        "GFLOP/s of one thread doing nothing but multiply-adds with the ISA in use.");
  m.def("_read_rate", &cpuattn::read_rate, py::arg("data").noconvert(), py::arg("seconds"),
        "GB/s of one thread doing nothing but reading an array with the ISA in use.");
  m.def("get_num_threads", &cpuattn::get_num_threads, "See cpuattn.get_num_threads.");
  m.def("set_num_threads", &cpuattn::set_num_threads, py::arg("num_threads"),
        "See cpuattn.set_num_threads.");
}

// pybind11 asks for the GIL of the main interpreter as it sets up a module, and so never returns in
// another one (in mod_wsgi, for example, every application has its own).
// NOLINTNEXTLINE(bugprone-reserved-identifier): the name that CPython looks for
extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
  if (PyInterpreterState_Get() == PyInterpreterState_Main()) return PyInit__core_of_main();
  PyErr_SetString(PyExc_ImportError,
                  "cpuattn cannot be imported in a sub-interpreter, only in the main one (for "
                  "mod_wsgi: WSGIApplicationGroup %{GLOBAL})");
  return nullptr;
}
