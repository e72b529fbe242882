#include "lib/tensors/pickle.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>

#include "kernels/error.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

using Kind = PickleNode::Kind;

// A checkpoint of 10,000 tensors with its optimizer makes under a million values.
constexpr size_t max_nodes = 2'000'000;
constexpr size_t max_depth = 1000;  // of open marks

// clang-format off
enum Op : uint8_t {
  MARK = '(', STOP = '.', POP = '0', POP_MARK = '1', DUP = '2', PROTO = 0x80, FRAME = 0x95,
  NONE = 'N', NEWTRUE = 0x88, NEWFALSE = 0x89, BININT = 'J', BININT1 = 'K', BININT2 = 'M', LONG1 = 0x8a, LONG4 = 0x8b,
  BINFLOAT = 'G', SHORT_BINSTRING = 'U', BINSTRING = 'T', SHORT_BINUNICODE = 0x8c, BINUNICODE = 'X',
  BINUNICODE8 = 0x8d, SHORT_BINBYTES = 'C', BINBYTES = 'B', BINBYTES8 = 0x8e, BYTEARRAY8 = 0x96,
  EMPTY_TUPLE = ')', TUPLE = 't', TUPLE1 = 0x85, TUPLE2 = 0x86, TUPLE3 = 0x87, EMPTY_LIST = ']', LIST = 'l',
  APPEND = 'a', APPENDS = 'e', EMPTY_DICT = '}', DICT = 'd', SETITEM = 's', SETITEMS = 'u', EMPTY_SET = 0x8f,
  ADDITEMS = 0x90, FROZENSET = 0x91, GLOBAL = 'c', STACK_GLOBAL = 0x93, REDUCE = 'R', NEWOBJ = 0x81,
  NEWOBJ_EX = 0x92, BUILD = 'b', BINPERSID = 'Q', BINPUT = 'q', LONG_BINPUT = 'r', MEMOIZE = 0x94, BINGET = 'h',
  LONG_BINGET = 'j',
};
// clang-format on

// What calling a global would mean. harmless: an object that a state dict has no use for.
enum class Role : uint8_t { storage, rebuild_tensor, rebuild_parameter, ordered_dict, harmless };
struct GlobalRow {
  std::string_view name;
  Role role = Role::harmless;
  DType dtype = DType::float32;
};
constexpr std::array globals{
    GlobalRow{"torch.FloatStorage", Role::storage, DType::float32},
    GlobalRow{"torch.HalfStorage", Role::storage, DType::float16},
    GlobalRow{"torch.BFloat16Storage", Role::storage, DType::bfloat16},
    GlobalRow{"torch.DoubleStorage", Role::storage, DType::float64},
    GlobalRow{"torch.LongStorage", Role::storage, DType::int64},
    GlobalRow{"torch.IntStorage", Role::storage, DType::int32},
    GlobalRow{"torch.ShortStorage", Role::storage, DType::int16},
    GlobalRow{"torch.CharStorage", Role::storage, DType::int8},
    GlobalRow{"torch.ByteStorage", Role::storage, DType::uint8},
    GlobalRow{"torch.BoolStorage", Role::storage, DType::boolean},
    GlobalRow{"torch._utils._rebuild_tensor", Role::rebuild_tensor},
    GlobalRow{"torch._utils._rebuild_tensor_v2", Role::rebuild_tensor},
    GlobalRow{"torch._utils._rebuild_parameter", Role::rebuild_parameter},
    GlobalRow{"torch._utils._rebuild_parameter_with_state", Role::rebuild_parameter},
    GlobalRow{"collections.OrderedDict", Role::ordered_dict},
    // Beside the weights. Python 2's names of the same stand in files of its time.
    GlobalRow{"yacs.config.CfgNode"},
    GlobalRow{"argparse.Namespace"},
    GlobalRow{"types.SimpleNamespace"},
    GlobalRow{"easydict.EasyDict"},
    GlobalRow{"collections.defaultdict"},
    GlobalRow{"collections.Counter"},
    GlobalRow{"collections.deque"},
    GlobalRow{"datetime.datetime"},
    GlobalRow{"datetime.timedelta"},
    GlobalRow{"pathlib.PosixPath"},
    GlobalRow{"pathlib.PurePosixPath"},
    GlobalRow{"pathlib.WindowsPath"},
    GlobalRow{"numpy.dtype"},
    GlobalRow{"numpy.ndarray"},
    GlobalRow{"numpy.core.multiarray.scalar"},
    GlobalRow{"numpy.core.multiarray._reconstruct"},
    GlobalRow{"numpy._core.multiarray.scalar"},
    GlobalRow{"numpy._core.multiarray._reconstruct"},
    GlobalRow{"_codecs.encode"},
    GlobalRow{"builtins.set"},
    GlobalRow{"builtins.frozenset"},
    GlobalRow{"builtins.bytearray"},
    GlobalRow{"builtins.complex"},
    GlobalRow{"builtins.int"},
    GlobalRow{"builtins.float"},
    GlobalRow{"builtins.bool"},
    GlobalRow{"builtins.str"},
    GlobalRow{"builtins.list"},
    GlobalRow{"builtins.dict"},
    GlobalRow{"__builtin__.set"},
    GlobalRow{"__builtin__.frozenset"},
    GlobalRow{"__builtin__.bytearray"},
    GlobalRow{"torch.Size"},
    GlobalRow{"torch.device"},
    GlobalRow{"torch.torch_version.TorchVersion"},
    GlobalRow{"torch.float16"},
    GlobalRow{"torch.bfloat16"},
    GlobalRow{"torch.float32"},
    GlobalRow{"torch.float64"},
    GlobalRow{"torch.int64"},
};

class Interpreter {
 public:
  Interpreter(std::string_view bytes, const std::string& where) : bytes_(bytes), where_(where) {}

  PickleTree run() {
    while (true) {
      at_ = next_;
      const uint8_t op = take_byte();
      if (op == STOP) break;
      step(op);
    }
    if (stack_.size() != 1 || !marks_.empty()) fail("the pickle ends with {} values", stack_.size());
    tree_.root = stack_.back();
    return std::move(tree_);
  }

 private:
  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> text, Args&&... args) const {
    fail_input("{}: pickle, byte {}: {}", where_, at_, fmt::format(text, std::forward<Args>(args)...));
  }

  // --- The bytes.

  std::string_view take(uint64_t count) {
    if (count > bytes_.size() - next_)
      fail("cut off: {} bytes wanted, {} left", count, bytes_.size() - next_);
    const std::string_view part = bytes_.substr(next_, static_cast<size_t>(count));
    next_ += static_cast<size_t>(count);
    return part;
  }
  uint8_t take_byte() { return static_cast<uint8_t>(take(1)[0]); }
  uint64_t take_unsigned(size_t width) {  // little-endian
    const std::string_view part = take(width);
    uint64_t value = 0;
    for (size_t i = width; i-- > 0;) value = value << 8 | static_cast<uint8_t>(part[i]);
    return value;
  }
  std::string_view take_line() {
    const size_t end = bytes_.find('\n', next_);
    if (end == std::string_view::npos) fail("cut off within a name");
    const std::string_view line = take(end - next_);
    next_ = end + 1;
    return line;
  }

  // --- The stack.

  PickleNode& node(uint32_t index) { return tree_.nodes[index]; }
  void push(PickleNode value) {
    if (tree_.nodes.size() >= max_nodes)
      fail("more than {} values: no checkpoint of a classifier", max_nodes);
    tree_.nodes.push_back(std::move(value));
    push_again(static_cast<uint32_t>(tree_.nodes.size() - 1));
  }
  void push_again(uint32_t index) {
    if (stack_.size() >= max_nodes) fail("more than {} values: no checkpoint of a classifier", max_nodes);
    stack_.push_back(index);
  }
  void push_text(Kind kind, std::string_view text) { push({.kind = kind, .text = text}); }
  void push_integer(int64_t value) { push({.kind = Kind::integer, .integer = value}); }
  uint32_t pop() {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) fail("nothing to take from the stack");
    const uint32_t index = stack_.back();
    stack_.pop_back();
    return index;
  }
  PickleNode& top() {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) fail("nothing on the stack");
    return node(stack_.back());
  }
  // Everything above the last mark, which goes.
  std::vector<uint32_t> pop_to_mark() {
    if (marks_.empty()) fail("no mark on the stack");
    std::vector<uint32_t> items(stack_.begin() + static_cast<ptrdiff_t>(marks_.back()), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return items;
  }
  std::vector<uint32_t> pop_items(size_t count) {
    std::vector<uint32_t> items(count);
    for (size_t i = count; i-- > 0;) items[i] = pop();
    return items;
  }

  // --- Operations.

  void step(uint8_t op) {
    switch (op) {
      case PROTO:
        if (const uint8_t protocol = take_byte(); protocol < 2 || protocol > 5) {
          fail("protocol {}; known are 2 to 5", protocol);
        }
        return;
      case FRAME:
        take_unsigned(8);
        return;
      case MARK:
        if (marks_.size() >= max_depth) fail("more than {} values nested in one another", max_depth);
        marks_.push_back(stack_.size());
        return;
      case POP:  // a mark, where it is the last thing pushed
        if (!marks_.empty() && marks_.back() == stack_.size()) {
          marks_.pop_back();
        } else {
          pop();
        }
        return;
      case POP_MARK:
        pop_to_mark();
        return;
      case DUP:
        top();
        push_again(stack_.back());
        return;

      case NONE:
        push({});
        return;
      case NEWTRUE:
        push({.kind = Kind::boolean, .integer = 1});
        return;
      case NEWFALSE:
        push({.kind = Kind::boolean, .integer = 0});
        return;
      case BININT:
        push_integer(static_cast<int32_t>(take_unsigned(4)));
        return;
      case BININT1:
        push_integer(take_byte());
        return;
      case BININT2:
        push_integer(static_cast<int64_t>(take_unsigned(2)));
        return;
      case LONG1:
        push_long(take(take_byte()));
        return;
      case LONG4:
        push_long(take(take_unsigned(4)));
        return;
      case BINFLOAT:
        take(8);
        push({.kind = Kind::real});
        return;
      case SHORT_BINSTRING:
        push_text(Kind::text, take(take_byte()));
        return;
      case BINSTRING:
        push_text(Kind::text, take(take_unsigned(4)));
        return;
      case SHORT_BINUNICODE:
        push_text(Kind::text, take(take_byte()));
        return;
      case BINUNICODE:
        push_text(Kind::text, take(take_unsigned(4)));
        return;
      case BINUNICODE8:
        push_text(Kind::text, take(take_unsigned(8)));
        return;
      case SHORT_BINBYTES:
        push_text(Kind::bytes, take(take_byte()));
        return;
      case BINBYTES:
        push_text(Kind::bytes, take(take_unsigned(4)));
        return;
      case BINBYTES8:
      case BYTEARRAY8:
        push_text(Kind::bytes, take(take_unsigned(8)));
        return;

      case EMPTY_TUPLE:
        push({.kind = Kind::tuple});
        return;
      case TUPLE:
        push_items(Kind::tuple, pop_to_mark());
        return;
      case TUPLE1:
      case TUPLE2:
      case TUPLE3:
        push_items(Kind::tuple, pop_items(static_cast<size_t>(op - TUPLE1) + 1));
        return;
      case EMPTY_LIST:
        push({.kind = Kind::list});
        return;
      case LIST:
        push_items(Kind::list, pop_to_mark());
        return;
      case APPEND:
        add_items(Kind::list, pop_items(1));
        return;
      case APPENDS:
        add_items(Kind::list, pop_to_mark());
        return;
      case EMPTY_DICT:
        push({.kind = Kind::dict});
        return;
      case DICT:
        push_items(Kind::dict, pairs(pop_to_mark()));
        return;
      case SETITEM:
        add_items(Kind::dict, pop_items(2));
        return;
      case SETITEMS:
        add_items(Kind::dict, pairs(pop_to_mark()));
        return;
      case EMPTY_SET:
        push({.kind = Kind::set});
        return;
      case ADDITEMS:
        add_items(Kind::set, pop_to_mark());
        return;
      case FROZENSET:
        push_items(Kind::set, pop_to_mark());
        return;

      case BINPUT:
        put(take_byte());
        return;
      case LONG_BINPUT:
        put(static_cast<uint32_t>(take_unsigned(4)));
        return;
      case MEMOIZE:
        put(static_cast<uint32_t>(memo_.size()));
        return;
      case BINGET:
        get(take_byte());
        return;
      case LONG_BINGET:
        get(static_cast<uint32_t>(take_unsigned(4)));
        return;

      case GLOBAL: {
        const std::string_view module = take_line();
        push_global(module, take_line());
        return;
      }
      case STACK_GLOBAL: {
        const uint32_t name = pop(), module = pop();
        if (node(module).kind != Kind::text || node(name).kind != Kind::text)
          fail("a global that has no name");
        push_global(node(module).text, node(name).text);
        return;
      }
      case REDUCE: {
        const uint32_t arguments = pop(), callable = pop();
        call(callable, arguments);
        return;
      }
      case NEWOBJ_EX:
        pop();
        [[fallthrough]];  // keyword arguments
      case NEWOBJ: {
        const uint32_t arguments = pop(), type = pop();
        call(type, arguments);
        return;
      }
      case BUILD: {  // attributes: of no use here
        pop();
        if (top().kind != Kind::object && top().kind != Kind::dict && top().kind != Kind::tensor) {
          fail("attributes are given to what has none");
        }
        return;
      }
      case BINPERSID:
        push_storage(pop());
        return;
      default:
        fail("the operation 0x{:02x}, which torch.save does not write", op);
    }
  }

  void push_long(std::string_view digits) {  // two's complement, little-endian
    if (digits.size() > 8) {
      push({.kind = Kind::object});
      return;
    }
    uint64_t value = !digits.empty() && (digits.back() & 0x80) != 0 ? ~uint64_t{0} : 0;
    for (size_t i = digits.size(); i-- > 0;) value = value << 8 | static_cast<uint8_t>(digits[i]);
    push_integer(static_cast<int64_t>(value));
  }

  void push_items(Kind kind, std::vector<uint32_t> items) { push({.kind = kind, .items = std::move(items)}); }
  std::vector<uint32_t> pairs(std::vector<uint32_t> items) {
    if (items.size() % 2 != 0) fail("a key without a value");
    return items;
  }
  // To the container on the stack. Objects that are stepped over swallow what they are given.
  void add_items(Kind kind, const std::vector<uint32_t>& items) {
    PickleNode& container = top();
    if (container.kind == Kind::object) return;
    if (container.kind != kind)
      fail("items are added to what is no {}", kind == Kind::dict ? "dict" : "list or set");
    container.items.insert(container.items.end(), items.begin(), items.end());
  }

  void put(uint32_t slot) {
    top();
    if (memo_.size() >= max_nodes) fail("a memo of more than {} values", max_nodes);
    memo_[slot] = stack_.back();
  }
  void get(uint32_t slot) {
    const auto place = memo_.find(slot);
    if (place == memo_.end()) fail("the memo has no {}", slot);
    push_again(place->second);
  }

  void push_global(std::string_view module, std::string_view name) {
    const std::string full = fmt::format("{}.{}", module, name);
    const auto row = std::ranges::find(globals, std::string_view(full), &GlobalRow::name);
    if (row == globals.end()) {
      fail(
          "refers to {}, which is no part of a state dict. Nothing was executed; save model.state_dict() "
          "alone",
          printable(full));
    }
    push({.kind = Kind::global, .dtype = row->dtype, .integer = row - globals.begin(), .text = row->name});
  }

  // callable(*arguments), as far as it makes tensors and dicts.
  void call(uint32_t callable, uint32_t arguments) {
    if (node(callable).kind != Kind::global) fail("calls what is no known class or function");
    if (node(arguments).kind != Kind::tuple)
      fail("calls {} without a tuple of arguments", node(callable).text);
    const GlobalRow& row = globals[static_cast<size_t>(node(callable).integer)];
    const std::vector<uint32_t>& items = node(arguments).items;
    switch (row.role) {
      case Role::storage:
        fail("calls {}", row.name);
      case Role::rebuild_tensor:
        push_tensor(items);
        return;
      case Role::rebuild_parameter:
        if (items.empty() || node(items[0]).kind != Kind::tensor) fail("a parameter without a tensor");
        push_again(items[0]);
        return;
      case Role::ordered_dict:
        push_ordered_dict(items);
        return;
      case Role::harmless:
        push({.kind = Kind::object});
        return;
    }
  }

  void push_ordered_dict(const std::vector<uint32_t>& arguments) {
    std::vector<uint32_t> items;
    if (!arguments.empty()) {  // Python 2: a list of [key, value]
      if (arguments.size() != 1 || node(arguments[0]).kind != Kind::list)
        fail("an OrderedDict of unknown arguments");
      for (const uint32_t pair : node(arguments[0]).items) {
        const std::vector<uint32_t>& both = node(pair).items;
        if (both.size() != 2) fail("an OrderedDict's item that is no pair");
        items.insert(items.end(), both.begin(), both.end());
      }
    }
    push_items(Kind::dict, std::move(items));
  }

  int64_t integer(uint32_t index) {
    if (node(index).kind != Kind::integer) fail("a tensor's size is no integer");
    return node(index).integer;
  }
  std::vector<int64_t> integers(uint32_t index) {
    if (node(index).kind != Kind::tuple) fail("a tensor's shape is no tuple");
    std::vector<int64_t> values;
    for (const uint32_t item : node(index).items) values.push_back(integer(item));
    return values;
  }

  // (storage, offset, size, stride, requires_grad, hooks, …)
  void push_tensor(const std::vector<uint32_t>& arguments) {
    constexpr size_t max_rank = 64;
    if (arguments.size() < 4 || node(arguments[0]).kind != Kind::storage) fail("a tensor without a storage");
    PickleNode tensor{.kind = Kind::tensor, .dtype = node(arguments[0]).dtype, .items = {arguments[0]}};
    tensor.integer = integer(arguments[1]);
    tensor.dims = integers(arguments[2]);
    tensor.strides = integers(arguments[3]);
    if (tensor.dims.size() != tensor.strides.size() || tensor.dims.size() > max_rank) {
      fail("a tensor of {} dimensions with {} strides", tensor.dims.size(), tensor.strides.size());
    }
    push(std::move(tensor));
  }

  // ("storage", type, key, location, elements)
  void push_storage(uint32_t id) {
    const std::vector<uint32_t>& items = node(id).items;
    if (node(id).kind != Kind::tuple || items.size() < 5 || node(items[0]).text != "storage" ||
        node(items[1]).kind != Kind::global || node(items[2]).kind != Kind::text) {
      fail("a reference to something outside that is no storage");
    }
    const GlobalRow& type = globals[static_cast<size_t>(node(items[1]).integer)];
    if (type.role != Role::storage) fail("a storage of type {}", type.name);
    const int64_t elements = integer(items[4]);
    if (elements < 0) fail("a storage of {} elements", elements);
    push({.kind = Kind::storage, .dtype = type.dtype, .integer = elements, .text = node(items[2]).text});
  }

  std::string_view bytes_;
  const std::string& where_;
  size_t at_ = 0, next_ = 0;
  PickleTree tree_;
  std::vector<uint32_t> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint32_t, uint32_t> memo_;
};

}  // namespace

PickleTree read_pickle(std::string_view bytes, const std::string& where) {
  return Interpreter(bytes, where).run();
}

}  // namespace vmamba
