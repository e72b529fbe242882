// The pickle interpreter: a stack machine that builds plain data.
#include "lib/tensors/pickle.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <unordered_map>

#include "kernels/choices.h"
#include "kernels/error.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

using Kind = PickleNode::Kind;

// A checkpoint of 10,000 tensors with its optimizer has under a million values. The total is also bounded by the
// pickle's own size: an operation creates one value and adds it to one other.
constexpr size_t max_nodes = 2'000'000;
constexpr size_t max_values_per_byte = 4;
constexpr size_t max_rank = 8;
constexpr size_t max_depth = 1000;  // of nested marks

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
  // Protocol 1: text lines.
  INT = 'I', LONG = 'L', FLOAT = 'F', STRING = 'S', UNICODE = 'V', PUT = 'p', GET = 'g', PERSID = 'P', INST = 'i',
  OBJ = 'o',
};
// clang-format on

// The meaning of calling a global; any global not listed creates an opaque object.
enum class Role : uint8_t { object, tensor, tensor_v3, parameter, from_type, ordered_dict };
struct GlobalRow {
  std::string_view module, name;
  Role role;
};
constexpr std::array globals{
    GlobalRow{"torch._utils", "_rebuild_tensor", Role::tensor},
    GlobalRow{"torch._utils", "_rebuild_tensor_v2", Role::tensor},
    GlobalRow{"torch._utils", "_rebuild_tensor_v3", Role::tensor_v3},
    GlobalRow{"torch._utils", "_rebuild_parameter", Role::parameter},
    GlobalRow{"torch._utils", "_rebuild_parameter_with_state", Role::parameter},
    GlobalRow{"torch._tensor", "_rebuild_from_type", Role::from_type},
    GlobalRow{"torch._tensor", "_rebuild_from_type_v2", Role::from_type},
    GlobalRow{"collections", "OrderedDict", Role::ordered_dict},
};

struct StorageRow {
  std::string_view name;
  DType dtype;
};
constexpr std::array storages{
    StorageRow{"FloatStorage", DType::float32},     StorageRow{"HalfStorage", DType::float16},
    StorageRow{"BFloat16Storage", DType::bfloat16}, StorageRow{"DoubleStorage", DType::float64},
    StorageRow{"LongStorage", DType::int64},        StorageRow{"IntStorage", DType::int32},
    StorageRow{"ShortStorage", DType::int16},       StorageRow{"CharStorage", DType::int8},
    StorageRow{"ByteStorage", DType::uint8},        StorageRow{"BoolStorage", DType::boolean},
};

// Modules and builtins that no checkpoint has a reason to call.
constexpr std::array<std::string_view, 10> suspect_modules{"os",     "posix",  "nt",    "subprocess", "sys",
                                                           "shutil", "socket", "runpy", "importlib",  "pty"};
constexpr std::array<std::string_view, 6> suspect_builtins{"eval",       "exec", "compile",
                                                           "__import__", "open", "breakpoint"};

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
    tree_.end = next_;
    return std::move(tree_);
  }

 private:
  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> text, Args&&... args) const {
    fail_input("{}: pickle, byte {}: {}", where_, at_, fmt::format(text, std::forward<Args>(args)...));
  }

  // --- Byte input.

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

  // --- Stack.

  PickleNode& node(uint32_t index) { return tree_.nodes[index]; }
  void charge(size_t values) {
    values_ += values;
    if (values_ > max_values_per_byte * bytes_.size() + 1000) {
      fail("more values than {} bytes have a reason to make", bytes_.size());
    }
  }
  uint32_t make(PickleNode value) {
    if (tree_.nodes.size() >= max_nodes)
      fail("more than {} values: no checkpoint of a classifier", max_nodes);
    charge(1 + value.items.size());
    tree_.nodes.push_back(std::move(value));
    return static_cast<uint32_t>(tree_.nodes.size() - 1);
  }
  void push(PickleNode value) { push_again(make(std::move(value))); }
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
  // Pops the last mark and everything above it.
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
        if (const uint8_t protocol = take_byte(); protocol > 5) {
          fail("protocol {}; known are 0 to 5", protocol);
        }
        return;
      case FRAME:
        take_unsigned(8);
        return;
      case MARK:
        if (marks_.size() >= max_depth) fail("more than {} values nested in one another", max_depth);
        marks_.push_back(stack_.size());
        return;
      case POP:  // pops the mark if it is the topmost item
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

      case INT: {  // protocol 1 encodes booleans as "00" and "01"
        const std::string_view line = take_line();
        if (line == "00" || line == "01") return push({.kind = Kind::boolean, .integer = line == "01"});
        return push_decimal(line);
      }
      case LONG:
        return push_decimal(take_line());
      case FLOAT:
        take_line();
        return push({.kind = Kind::real});
      case STRING:
      case UNICODE:
        return push_text(Kind::text, take_line());
      case PUT:
        return put(slot(take_line()));
      case GET:
        return get(slot(take_line()));

      case GLOBAL: {
        const std::string_view module = take_line();
        return push_again(make_global(module, take_line()));
      }
      case STACK_GLOBAL: {
        const uint32_t name = pop(), module = pop();
        if (node(module).kind != Kind::text || node(name).kind != Kind::text)
          fail("a global that has no name");
        push({.kind = Kind::global, .items = {module, name}});
        return;
      }
      case REDUCE: {
        const uint32_t arguments = pop(), callable = pop();
        call(callable, arguments);
        return;
      }
      case NEWOBJ_EX:
        pop();
        [[fallthrough]];  // keyword arguments are ignored
      case NEWOBJ: {
        const uint32_t arguments = pop(), type = pop();
        call(type, arguments);
        return;
      }
      case INST: {
        const std::string_view module = take_line();
        const uint32_t type = make_global(module, take_line());
        pop_to_mark();
        return push_object(type);
      }
      case OBJ: {
        const std::vector<uint32_t> items = pop_to_mark();
        if (items.empty()) fail("an object without a class");
        return push_object(items[0]);
      }
      case BUILD: {
        const uint32_t state = pop();
        if (top().kind == Kind::object) top().state = state;
        return;
      }
      case BINPERSID:
        push_storage(pop());
        return;
      case PERSID:
        take_line();
        return push({.kind = Kind::object});
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
  void push_decimal(std::string_view line) {
    if (line.ends_with('L')) line.remove_suffix(1);
    int64_t value = 0;
    const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), value);
    if (error == std::errc::result_out_of_range) return push({.kind = Kind::object});
    if (error != std::errc() || end != line.data() + line.size()) fail("{} is no integer", in_quotes(line));
    push_integer(value);
  }
  uint32_t slot(std::string_view line) {
    const auto value = parse_number<uint32_t>(line);
    if (!value) fail("{} is no place in the memo", in_quotes(line));
    return *value;
  }
  // Adds items to the container on top of the stack. Objects keep keyed items, as they may be subclasses of dict.
  void add_items(Kind kind, const std::vector<uint32_t>& items) {
    PickleNode& container = top();
    if (container.kind == Kind::object && kind != Kind::dict) return;
    if (container.kind != kind && container.kind != Kind::object)
      fail("items are added to what is no {}", kind == Kind::dict ? "dict" : "list or set");
    charge(items.size());
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

  uint32_t make_global(std::string_view module, std::string_view name) {
    const uint32_t module_text = make({.kind = Kind::text, .text = module});
    const uint32_t name_text = make({.kind = Kind::text, .text = name});
    return make({.kind = Kind::global, .items = {module_text, name_text}});
  }
  std::string_view module_of(const PickleNode& global) { return node(global.items[0]).text; }
  std::string_view name_of(const PickleNode& global) { return node(global.items[1]).text; }
  Role role_of(uint32_t callable) {
    const PickleNode& global = node(callable);
    if (global.kind != Kind::global) return Role::object;
    for (const GlobalRow& row : globals) {
      if (row.name == name_of(global) && row.module == module_of(global)) return row.role;
    }
    return Role::object;
  }
  void note_suspect(const PickleNode& global) {
    const std::string_view module = module_of(global), name = name_of(global);
    const bool builtin = module == "builtins" || module == "__builtin__";
    if (tree_.suspect.empty() && (builtin ? std::ranges::count(suspect_builtins, name)
                                          : std::ranges::count(suspect_modules, module)) > 0) {
      tree_.suspect = printable(fmt::format("{}.{}", module, name));
    }
  }

  void push_object(uint32_t type) {
    if (node(type).kind == Kind::global) note_suspect(node(type));
    push({.kind = Kind::object, .integer = type});
  }
  void push_unreadable(std::string_view why) { push({.kind = Kind::tensor, .text = why}); }

  // Interprets callable(*arguments) if it creates a tensor or dict; never calls anything.
  void call(uint32_t callable, uint32_t arguments) {
    Role role = node(arguments).kind == Kind::tuple ? role_of(callable) : Role::object;
    if (role == Role::from_type) {  // (function, class, its arguments, …): a tensor with attributes
      const std::vector<uint32_t>& inner = node(arguments).items;
      const bool known = inner.size() >= 3 && node(inner[2]).kind == Kind::tuple;
      role = known ? role_of(inner[0]) : Role::object;
      if (role != Role::tensor && role != Role::tensor_v3 && role != Role::parameter)
        return push_unreadable("a tensor of its own class");
      arguments = inner[2];
    }
    const std::vector<uint32_t>& items = node(arguments).items;
    switch (role) {
      case Role::tensor:
      case Role::tensor_v3:
        return push_tensor(items, role);
      case Role::parameter:
        if (items.empty() || node(items[0]).kind != Kind::tensor)
          return push_unreadable("a parameter without a tensor");
        return push_again(items[0]);
      case Role::ordered_dict:
        return push_ordered_dict(items);
      case Role::from_type:
      case Role::object:
        break;
    }
    const PickleNode& global = node(callable);
    if (global.kind == Kind::global && module_of(global) == "torch._utils" &&
        name_of(global).starts_with("_rebuild_")) {
      return push_unreadable(name_of(global));
    }
    push_object(callable);
  }

  void push_ordered_dict(const std::vector<uint32_t>& arguments) {
    PickleNode dict{.kind = Kind::dict};
    if (!arguments.empty() && node(arguments[0]).kind == Kind::list) {  // Python 2: a list of [key, value]
      const std::vector<uint32_t>& pairs_given = node(arguments[0]).items;
      charge(2 * pairs_given.size());  // several dicts may copy the same list
      for (const uint32_t pair : pairs_given) {
        const std::vector<uint32_t>& both = node(pair).items;
        if (both.size() != 2) fail("an OrderedDict's item that is no pair");
        dict.items.insert(dict.items.end(), both.begin(), both.end());
      }
    }
    push(std::move(dict));
  }

  bool is_true(uint32_t index) { return node(index).kind == Kind::boolean && node(index).integer != 0; }
  bool holds_integers(uint32_t index) {
    return node(index).kind == Kind::tuple && std::ranges::all_of(node(index).items, [&](uint32_t item) {
             return node(item).kind == Kind::integer;
           });
  }

  // (storage, offset, sizes, strides, requires_grad, hooks[, dtype of v3][, {"neg": …, "conj": …}])
  void push_tensor(const std::vector<uint32_t>& arguments, Role role) {
    if (arguments.size() < 4 || node(arguments[0]).kind != Kind::storage)
      return push_unreadable("a tensor without a storage");
    const PickleNode& storage = node(arguments[0]);
    PickleNode tensor{.kind = Kind::tensor, .dtype = storage.dtype, .text = storage.text};
    size_t options = 6;
    if (role == Role::tensor_v3) {
      if (arguments.size() < 7 || node(arguments[6]).kind != Kind::global)
        return push_unreadable("a tensor without a dtype");
      const std::string_view name = name_of(node(arguments[6]));
      const auto* dtype = std::ranges::find(table_of<DType>, name, &DTypeRow::name);
      if (dtype == table_of<DType>.end()) {
        tensor.text = name;
      } else {
        tensor.dtype = dtype->value;
      }
      options = 7;
    } else if (storage.untyped) {
      return push_unreadable("a tensor without a dtype");
    }
    const size_t rank = node(arguments[2]).items.size();
    if (node(arguments[1]).kind != Kind::integer || rank != node(arguments[3]).items.size() ||
        rank > max_rank || !holds_integers(arguments[2]) || !holds_integers(arguments[3])) {
      return push_unreadable("sizes and strides that are not those of at most 8 dimensions");
    }
    if (options < arguments.size() && node(arguments[options]).kind != Kind::none) {
      if (node(arguments[options]).kind != Kind::dict) return push_unreadable("a tensor of unknown marks");
      const std::vector<uint32_t>& pairs_given = node(arguments[options]).items;
      charge(pairs_given.size());  // several dicts may copy the same one
      for (size_t i = 0; i + 1 < pairs_given.size(); i += 2) {
        const std::string_view key = node(pairs_given[i]).text;
        if (key == "neg") tensor.negated = is_true(pairs_given[i + 1]);
        if (key == "conj" && is_true(pairs_given[i + 1])) tensor.text = "complex conjugates";
      }
    }
    tensor.integer = node(arguments[1]).integer;
    tensor.items = {arguments[0], arguments[2], arguments[3]};
    push(std::move(tensor));
  }

  // ("storage", type, key, location, elements)
  void push_storage(uint32_t id) {
    const std::vector<uint32_t>& items = node(id).items;
    if (node(id).kind != Kind::tuple || items.size() < 5 || node(items[0]).text != "storage" ||
        node(items[1]).kind != Kind::global || node(items[2]).kind != Kind::text ||
        node(items[4]).kind != Kind::integer || node(items[4]).integer < 0 ||
        (items.size() > 5 && node(items[5]).kind != Kind::none)) {  // view of another storage: before 0.4
      return push({.kind = Kind::object});
    }
    PickleNode storage{.kind = Kind::storage, .integer = node(items[4]).integer, .items = {items[2]}};
    const std::string_view type = name_of(node(items[1]));
    const auto* row = std::ranges::find(storages, type, &StorageRow::name);
    if (type == "UntypedStorage") {
      storage.untyped = true;
    } else if (row == storages.end()) {
      storage.text = type;
    } else {
      storage.dtype = row->dtype;
    }
    push(std::move(storage));
  }

  std::string_view bytes_;
  const std::string& where_;
  size_t at_ = 0, next_ = 0, values_ = 0;
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
