#include "store.hpp"

#include <cstring>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "arguments.hpp"
#include "commit.hpp"
#include "cpuattn/cache.hpp"
#include "kv_state.hpp"
#include "unlocked.hpp"

namespace cpuattn {
namespace {

namespace py = pybind11;

constexpr int kTokensRank = 4, kScalesRank = 3;

// Rows [begin, end) of entry `source` go to the rows of entry `target` from `row` on; the same with
// as many entries as are moved together.
struct Move {
  std::ptrdiff_t target, row, source, begin, end, entries;
};

Move parse_move(PyObject* object) {
  if (!PyTuple_Check(object) || PyTuple_GET_SIZE(object) != 5) {
    throw py::type_error("a move must be a tuple of 5 integers");
  }
  Py_ssize_t number[5];
  for (int i = 0; i < 5; ++i) {
    number[i] = PyLong_AsSsize_t(PyTuple_GET_ITEM(object, i));
    if (number[i] == -1 && PyErr_Occurred()) throw py::error_already_set();
  }
  return {number[0], number[1], number[2], number[3], number[4], 1};
}

std::vector<Move> parse_moves(PyObject* list) {
  if (!PyList_Check(list)) throw py::type_error("moves must be a list");
  std::vector<Move> moves(static_cast<std::size_t>(PyList_GET_SIZE(list)));
  for (std::size_t i = 0; i < moves.size(); ++i) {
    moves[i] = parse_move(PyList_GET_ITEM(list, static_cast<Py_ssize_t>(i)));
  }
  return moves;
}

// A view, of so many dimensions, of an array that has a dtype of the core.
bool take_view(PyObject* array, int rank, View& view) {
  return is_plain_array(array) && py::reinterpret_borrow<py::array>(array).ndim() == rank &&
         view_of(array, view);
}

// An array of a cache, which nobody else makes.
View target_view(PyObject* array, int rank) {
  View view;
  if (!take_view(array, rank, view) || !is_readable(array, view)) {
    throw py::type_error("an array of a cache must be a native and aligned one");
  }
  return view;
}

// The arrays of a cache; there are scales if count is 4.
struct Targets {
  View array[4];
  int count;
  bool writeable = true;

  explicit Targets(PyObject* tuple) {
    if (!PyTuple_Check(tuple) || (PyTuple_GET_SIZE(tuple) != 2 && PyTuple_GET_SIZE(tuple) != 4)) {
      throw py::type_error("arrays must be a tuple of 2, or with scales of 4");
    }
    count = static_cast<int>(PyTuple_GET_SIZE(tuple));
    for (int i = 0; i < count; ++i) {
      PyObject* const item = PyTuple_GET_ITEM(tuple, i);
      array[i] = target_view(item, i < 2 ? kTokensRank : kScalesRank);
      writeable = writeable && py::reinterpret_borrow<py::array>(item).writeable();
    }
  }
  const View* scale(int which) const { return count == 4 ? &array[2 + which] : nullptr; }
};

// Tokens that may lie anywhere, also where they are to be written: then they are copied.
struct Source {
  py::object kept;
  View view;

  Source(PyObject* array, const char* name, const Targets& targets) {
    if (!take_view(array, kTokensRank, view)) {
      throw py::type_error(std::string(name) + " is no array of numbers that can be stored");
    }
    bool usable = is_readable(array, view);
    for (int i = 0; i < targets.count; ++i) {
      usable = usable && !may_overlap(view, targets.array[i]);
    }
    if (usable) return;
    kept = convert("as_native", array, name);
    view_of(kept.ptr(), view);
  }
};

// Rows [begin, end) of so many entries from one on.
View rows_of(const View& view, std::ptrdiff_t entry, std::ptrdiff_t entries, std::ptrdiff_t begin,
             std::ptrdiff_t end) {
  if (entry < 0 || entries > view.shape[0] - entry || begin < 0 || begin > end ||
      end > view.shape[2]) {
    throw py::index_error("a move is outside of an array");
  }
  View rows = view;
  rows.data = static_cast<char*>(view.data) + entry * view.stride[0] + begin * view.stride[2];
  rows.shape[0] = entries;
  rows.shape[2] = end - begin;
  return rows;
}

bool store_moves(const View& source, const View& target, const View* scale,
                 const std::vector<Move>& moves) {
  bool overflows = false;
  for (const Move& move : moves) {
    const std::ptrdiff_t end = move.row + (move.end - move.begin);
    const View from = rows_of(source, move.source, move.entries, move.begin, move.end);
    const View to = rows_of(target, move.target, move.entries, move.row, end);
    if (scale) {
      const View scales = rows_of(*scale, move.target, move.entries, move.row, end);
      store(from, to, &scales);
    } else {
      overflows |= store(from, to, nullptr);
    }
  }
  return overflows;
}

// Rows of an array of a cache to others of the same array; both lie without gaps in their heads.
void copy_rows(const View& array, const Move& move) {
  const std::ptrdiff_t end = move.row + (move.end - move.begin);
  const View from = rows_of(array, move.source, 1, move.begin, move.end);
  const View to = rows_of(array, move.target, 1, move.row, end);
  const auto bytes = static_cast<std::size_t>((move.end - move.begin) * array.stride[2]);
  for (std::ptrdiff_t head = 0; bytes > 0 && head < array.shape[1]; ++head) {
    std::memcpy(static_cast<char*>(to.data) + head * to.stride[1],
                static_cast<const char*>(from.data) + head * from.stride[1], bytes);
  }
}

// What an append writes: rows within the cache that move first, then tokens.
struct Writes {
  const View &key, &value;
  const Targets& targets;
  std::vector<Move> copies, moves;

  // Some microseconds of work: to give up the GIL would take longer.
  bool is_short() const {
    constexpr std::ptrdiff_t kShort = 16384;  // elements
    return copies.empty() && key.shape[0] * key.shape[1] * key.shape[2] * key.shape[3] < kShort;
  }

  bool run() const {
    for (int i = 0; i < targets.count; ++i) {
      for (const Move& copy : copies) copy_rows(targets.array[i], copy);
    }
    const bool overflows = store_moves(key, targets.array[0], targets.scale(0), moves);
    return store_moves(value, targets.array[1], targets.scale(1), moves) || overflows;
  }
};

// Writes into rows that the state `before` does not use, then commits; false, having done nothing,
// where the cache is in another state by now. An overflow may raise or run a handler of the user,
// who may change the cache there: what was written is then not trusted any more.
bool write_and_commit(PyObject* cache, PyObject* before, PyObject* after, const Writes& writes) {
  for (bool reported = false;; reported = true) {
    {
      const Commit commit(cache);
      if (!commit.is_due(before)) return false;
      bool overflows = false;
      if (writes.is_short()) {
        overflows = writes.run();
      } else {
        const Unlocked unlocked;
        overflows = writes.run();
      }
      if (!overflows || reported) {
        commit.finish(after);
        return true;
      }
    }
    py::module_::import("cpuattn._dtypes").attr("report_overflow")();
  }
}

bool is_float(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kFloat64 || dtype == DType::kFloat16 ||
         dtype == DType::kBFloat16;
}

// The tokens are floats of the shape that the target asks for, but for their number.
bool fits(PyObject* array, const View& target, View& tokens) {
  return take_view(array, kTokensRank, tokens) && is_float(tokens.dtype) &&
         tokens.shape[0] == target.shape[0] && tokens.shape[1] == target.shape[1] &&
         tokens.shape[3] == target.shape[3];
}

// Where the tokens go; nothing if an entry has no room for them.
std::vector<Move> moves_to(const Counts& starts, std::ptrdiff_t tokens, std::ptrdiff_t capacity) {
  std::vector<Move> moves;
  for (std::size_t i = 0; i < starts.size(); ++i) {
    const auto entry = static_cast<std::ptrdiff_t>(i);
    if (starts[i] > capacity - tokens) return {};
    if (!moves.empty() && moves.back().row == starts[i]) {
      ++moves.back().entries;
    } else {
      moves.push_back({entry, starts[i], entry, 0, tokens, 1});
    }
  }
  return moves;
}

}  // namespace

py::object append_tokens(PyObject* const* args) {
  PyObject *const cache = args[0], *const before = args[1];
  PyObject *const new_keys = args[2], *const new_values = args[3];
  const KVState state(before);
  const py::object arrays = state.arrays();
  const Targets targets(arrays.ptr());
  const View &keys = targets.array[0], &values = targets.array[1];
  View key, value;
  if (!targets.writeable || !fits(new_keys, keys, key) || !fits(new_values, values, value) ||
      value.shape[2] != key.shape[2]) {
    return py::none();
  }
  const std::ptrdiff_t tokens = key.shape[2];
  std::vector<Move> moves = moves_to(state.held(), tokens, keys.shape[2]);
  if (moves.empty()) return py::none();
  const Source own_keys(new_keys, "key", targets), own_values(new_values, "value", targets);
  const py::object after = state.appended(Counts(state.batch(), tokens), tokens);
  const Writes writes{own_keys.view, own_values.view, targets, {}, std::move(moves)};
  return py::bool_(write_and_commit(cache, before, after.ptr(), writes));
}

py::object store_tokens(PyObject* const* args) {
  const Targets targets(args[5]);
  if (!targets.writeable) throw py::type_error("an array to be written must be writable");
  const Source keys(args[3], "key", targets), values(args[4], "value", targets);
  const Writes writes{keys.view, values.view, targets, parse_moves(args[7]), parse_moves(args[6])};
  return py::bool_(write_and_commit(args[0], args[1], args[2], writes));
}

}  // namespace cpuattn
