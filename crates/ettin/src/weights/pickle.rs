//! A reader for the few pickles that `torch.save(state_dict)` writes. It builds plain data and never calls anything:
//! the only globals it knows are the ones listed in [`Global::named`], every other one is refused by name.
//!
//! Values live in an arena and refer to one another by index, so nothing here recurses, however deep a pickle nests.
//! Every opcode takes at least one byte and makes at most one value, and both counts are bounded.

use std::collections::HashMap;

use super::{StoredDtype, StoredType};

/// A state dict of a thousand tensors pickles to some 100 KiB.
const MAX_BYTES: usize = 16 << 20;
/// Values, stack entries and memo entries that one pickle may make.
const MAX_VALUES: usize = 1 << 20;
/// Tensors of more dimensions than torch's own linear algebra handles are no weights.
const MAX_DIMENSIONS: usize = 8;

/// A tensor as its pickle describes it: a strided window onto a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PickledTensor {
    /// Name of the storage's entry under `data/`.
    pub(super) storage: String,
    pub(super) dtype: StoredType,
    /// Elements that the storage is said to hold.
    pub(super) storage_len: usize,
    /// First element, in elements.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// Distance between neighbours of each dimension, in elements.
    pub(super) strides: Vec<usize>,
}

/// The named tensors of a pickled state dict, in its order. The error is a sentence about what was wrong.
pub(super) fn read_state_dict(pickle: &[u8]) -> Result<Vec<(String, PickledTensor)>, String> {
    if pickle.len() > MAX_BYTES {
        return Err(format!("data.pkl has {} bytes, the limit is {MAX_BYTES}", pickle.len()));
    }
    let mut machine =
        Machine { input: pickle, at: 0, nodes: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    let top = machine.run()?;
    machine.state_dict(top)
}

/// A value: small ones as they are, the others by index into the arena.
#[derive(Debug, Clone, Copy)]
enum Value {
    None,
    Bool,
    Int(i64),
    Node(usize),
}

#[derive(Debug)]
enum Node<'a> {
    Text(&'a str),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Global(Global),
    Storage { dtype: StoredType, key: &'a str, len: usize },
    Tensor(PickledTensor),
}

/// The names a weights pickle may refer to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(StoredType),
}

impl Global {
    fn named(module: &str, name: &str) -> Option<Self> {
        let known = |dtype| Some(Self::Storage(StoredType::Known(dtype)));
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", "FloatStorage") => known(StoredDtype::F32),
            ("torch", "HalfStorage") => known(StoredDtype::F16),
            ("torch", "BFloat16Storage") => known(StoredDtype::BF16),
            // Buffers that nothing reads may be of these; a weight of theirs is refused when it is asked for.
            (
                "torch",
                "DoubleStorage" | "LongStorage" | "IntStorage" | "ShortStorage" | "CharStorage" | "ByteStorage"
                | "BoolStorage",
            ) => Some(Self::Storage(StoredType::Foreign(name.to_owned()))),
            _ => None,
        }
    }
}

struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<Value>,
    /// Stack heights at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
}

impl<'a> Machine<'a> {
    /// Runs to the `STOP` opcode and returns what it leaves.
    fn run(&mut self) -> Result<Value, String> {
        loop {
            let position = self.at;
            let [opcode] = self.array()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode).map_err(|problem| format!("data.pkl at byte {position}: {problem}"))?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            // PROTO, FRAME: no value
            0x80 => self.array::<1>().map(drop),
            0x95 => self.array::<8>().map(drop),
            // NONE, NEWTRUE, NEWFALSE
            b'N' => self.push(Value::None),
            0x88 | 0x89 => self.push(Value::Bool),
            // BININT, BININT1, BININT2, LONG1
            b'J' => self.array().and_then(|b| self.push(Value::Int(i32::from_le_bytes(b).into()))),
            b'K' => self.array().and_then(|[b]| self.push(Value::Int(b.into()))),
            b'M' => self.array().and_then(|b| self.push(Value::Int(u16::from_le_bytes(b).into()))),
            0x8a => self.long(),
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
            0x8c => self.array().and_then(|[n]| self.text(n.into())),
            b'X' => self.array().and_then(|n| self.text(u32::from_le_bytes(n).into())),
            0x8d => self.array().and_then(|n| self.text(u64::from_le_bytes(n))),
            // EMPTY_TUPLE, EMPTY_LIST, EMPTY_DICT
            b')' => self.make(Node::Tuple(Vec::new())),
            b']' => self.make(Node::List(Vec::new())),
            b'}' => self.make(Node::Dict(Vec::new())),
            // MARK, TUPLE, TUPLE1, TUPLE2, TUPLE3
            b'(' => self.mark(),
            b't' => self.pop_mark().and_then(|items| self.make(Node::Tuple(items))),
            0x85..=0x87 => self.pop_many(usize::from(opcode - 0x84)).and_then(|items| self.make(Node::Tuple(items))),
            // APPEND, APPENDS
            b'a' => self.pop_many(1).and_then(|items| self.append(items)),
            b'e' => self.pop_mark().and_then(|items| self.append(items)),
            // SETITEM, SETITEMS
            b's' => self.pop_many(2).and_then(|items| self.set_items(&items)),
            b'u' => self.pop_mark().and_then(|items| self.set_items(&items)),
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' => self.array().and_then(|[i]| self.remember(i.into())),
            b'r' => self.array().and_then(|i| self.remember(u32::from_le_bytes(i))),
            0x94 => self.remember(self.memo.len() as u32),
            b'h' => self.array().and_then(|[i]| self.recall(i.into())),
            b'j' => self.array().and_then(|i| self.recall(u32::from_le_bytes(i))),
            // GLOBAL, STACK_GLOBAL, REDUCE, BUILD, BINPERSID
            b'c' => self.global(),
            0x93 => self.stack_global(),
            b'R' => self.reduce(),
            b'b' => self.build(),
            b'Q' => self.persistent_id(),
            other => Err(format!("opcode 0x{other:02x} has no place in a weights file")),
        }
    }

    // Input

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], String> {
        let bytes = self.input.get(self.at..).and_then(|rest| rest.get(..count));
        let bytes =
            bytes.ok_or_else(|| format!("data.pkl ends at byte {} in the middle of a value", self.input.len()))?;
        self.at += count;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.bytes(N)?;
        bytes.try_into().map_err(|_| "out of input".to_owned())
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.input[self.at..];
        let end = rest.iter().position(|&b| b == b'\n').ok_or("a name without an end")?;
        let line = utf8(&rest[..end])?;
        self.at += end + 1;
        Ok(line)
    }

    fn text(&mut self, count: u64) -> Result<(), String> {
        let count = usize::try_from(count).map_err(|_| "a string longer than memory")?;
        let text = utf8(self.bytes(count)?)?;
        self.make(Node::Text(text))
    }

    /// LONG1: a little-endian two's complement number of a stated length.
    fn long(&mut self) -> Result<(), String> {
        let [count] = self.array()?;
        let bytes = self.bytes(count.into())?;
        if bytes.len() > 8 {
            return Err(format!("a number of {} bytes", bytes.len()));
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut full = [if negative { 0xff } else { 0 }; 8];
        full[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(full)))
    }

    // Stack, arena and memo

    fn push(&mut self, value: Value) -> Result<(), String> {
        if self.stack.len() >= MAX_VALUES {
            return Err(format!("more than {MAX_VALUES} values on the stack"));
        }
        self.stack.push(value);
        Ok(())
    }

    fn make(&mut self, node: Node<'a>) -> Result<(), String> {
        if self.nodes.len() >= MAX_VALUES {
            return Err(format!("more than {MAX_VALUES} values"));
        }
        self.nodes.push(node);
        self.push(Value::Node(self.nodes.len() - 1))
    }

    fn mark(&mut self) -> Result<(), String> {
        if self.marks.len() >= MAX_VALUES {
            return Err(format!("more than {MAX_VALUES} open marks"));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// What lies below the innermost mark is out of reach until the mark is popped.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Value, String> {
        match self.stack.len() > self.floor() {
            true => self.stack.pop().ok_or_else(|| EMPTY.to_owned()),
            false => Err(EMPTY.to_owned()),
        }
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Value>, String> {
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= self.floor() => Ok(self.stack.split_off(start)),
            _ => Err(EMPTY.to_owned()),
        }
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>, String> {
        let start = self.marks.pop().ok_or("a group without a beginning")?;
        Ok(self.stack.split_off(start))
    }

    fn remember(&mut self, index: u32) -> Result<(), String> {
        let value = match self.stack.len() > self.floor() {
            true => self.stack.last().copied().ok_or(EMPTY)?,
            false => return Err(EMPTY.to_owned()),
        };
        if self.memo.len() >= MAX_VALUES {
            return Err(format!("more than {MAX_VALUES} remembered values"));
        }
        self.memo.insert(index, value);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), String> {
        let value = *self.memo.get(&index).ok_or_else(|| format!("value {index} was never remembered"))?;
        self.push(value)
    }

    fn node(&self, value: Value) -> Option<&Node<'a>> {
        match value {
            Value::Node(index) => self.nodes.get(index),
            _ => None,
        }
    }

    fn top_node(&mut self) -> Option<&mut Node<'a>> {
        match self.stack.last() {
            Some(&Value::Node(index)) if self.stack.len() > self.floor() => self.nodes.get_mut(index),
            _ => None,
        }
    }

    fn append(&mut self, items: Vec<Value>) -> Result<(), String> {
        match self.top_node() {
            Some(Node::List(list)) => list.extend(items),
            _ => return Err("items appended to what is no list".to_owned()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Value]) -> Result<(), String> {
        let (pairs, rest) = items.as_chunks::<2>();
        match self.top_node() {
            Some(Node::Dict(dict)) if rest.is_empty() => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            _ => return Err("entries set on what is no dict".to_owned()),
        }
        Ok(())
    }

    // Names and what may be built from them

    fn global(&mut self) -> Result<(), String> {
        let (module, name) = (self.line()?, self.line()?);
        self.make_global(module, name)
    }

    fn stack_global(&mut self) -> Result<(), String> {
        let names = self.pop_many(2)?;
        match (self.as_text(names[0]), self.as_text(names[1])) {
            (Some(module), Some(name)) => self.make_global(module, name),
            _ => Err("a global without a name".to_owned()),
        }
    }

    fn make_global(&mut self, module: &str, name: &str) -> Result<(), String> {
        match Global::named(module, name) {
            Some(global) => self.make(Node::Global(global)),
            None => Err(format!(
                "it refers to `{}.{}`, which no weights file needs; nothing was executed",
                printable(module),
                printable(name)
            )),
        }
    }

    fn reduce(&mut self) -> Result<(), String> {
        let call = self.pop_many(2)?;
        let (Some(Node::Global(global)), Some(Node::Tuple(arguments))) = (self.node(call[0]), self.node(call[1]))
        else {
            return Err("a call of what is no known function".to_owned());
        };
        let built = match (global, arguments.as_slice()) {
            (Global::OrderedDict, []) => Node::Dict(Vec::new()),
            (Global::RebuildTensor, [storage, offset, shape, strides, _, _, ..]) => {
                Node::Tensor(self.tensor(*storage, *offset, *shape, *strides)?)
            }
            (Global::RebuildParameter, [data, _, _]) => match self.node(*data) {
                Some(Node::Tensor(tensor)) => Node::Tensor(tensor.clone()),
                _ => return Err("a parameter without a tensor".to_owned()),
            },
            (global, arguments) => {
                return Err(format!("{global:?} called with {} arguments", arguments.len()));
            }
        };
        self.make(built)
    }

    /// The attributes of a state dict are its modules' version numbers: dropped.
    fn build(&mut self) -> Result<(), String> {
        self.pop()?;
        match self.top_node() {
            Some(Node::Dict(_)) => Ok(()),
            _ => Err("attributes set on what is no dict".to_owned()),
        }
    }

    fn persistent_id(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let storage = match self.node(id) {
            Some(Node::Tuple(parts)) => match parts.as_slice() {
                [tag, kind, key, _location, Value::Int(len)] if self.as_text(*tag) == Some("storage") => {
                    match (self.node(*kind), self.as_text(*key), usize::try_from(*len)) {
                        (Some(Node::Global(Global::Storage(dtype))), Some(key), Ok(len)) => {
                            Some(Node::Storage { dtype: dtype.clone(), key, len })
                        }
                        _ => None,
                    }
                }
                _ => None,
            },
            _ => None,
        };
        self.make(storage.ok_or("a persistent id that names no storage")?)
    }

    fn tensor(&self, storage: Value, offset: Value, shape: Value, strides: Value) -> Result<PickledTensor, String> {
        let Some(Node::Storage { dtype, key, len }) = self.node(storage) else {
            return Err("a tensor without a storage".to_owned());
        };
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        if shape.len() != strides.len() {
            return Err(format!("a tensor of {} dimensions and {} strides", shape.len(), strides.len()));
        }
        Ok(PickledTensor {
            storage: (*key).to_owned(),
            dtype: dtype.clone(),
            storage_len: *len,
            offset: size(offset)?,
            shape,
            strides,
        })
    }

    fn sizes(&self, value: Value) -> Result<Vec<usize>, String> {
        match self.node(value) {
            Some(Node::Tuple(items)) if items.len() <= MAX_DIMENSIONS => items.iter().map(|&item| size(item)).collect(),
            Some(Node::Tuple(items)) => Err(format!("a tensor of {} dimensions", items.len())),
            _ => Err("a tensor without a shape".to_owned()),
        }
    }

    fn as_text(&self, value: Value) -> Option<&'a str> {
        match self.node(value) {
            Some(Node::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn state_dict(&self, top: Value) -> Result<Vec<(String, PickledTensor)>, String> {
        let Some(Node::Dict(entries)) = self.node(top) else {
            return Err("it holds no dict of tensors".to_owned());
        };
        let mut tensors = Vec::new();
        for &(key, value) in entries {
            let name = self.as_text(key).ok_or("a tensor whose name is no string")?;
            match self.node(value) {
                Some(Node::Tensor(tensor)) => tensors.push((name.to_owned(), tensor.clone())),
                Some(Node::Dict(_)) => {
                    return Err(format!(
                        "`{}` is a dict inside the dict: a training checkpoint; save its model's state_dict alone",
                        printable(name)
                    ));
                }
                _ => return Err(format!("`{}` is no tensor", printable(name))),
            }
        }
        Ok(tensors)
    }
}

const EMPTY: &str = "a value was taken from an empty stack";

fn size(value: Value) -> Result<usize, String> {
    match value {
        Value::Int(n) => usize::try_from(n).map_err(|_| format!("{n} is no size")),
        _ => Err("a size that is no number".to_owned()),
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "a name that is not UTF-8".to_owned())
}

/// A name from the file, made fit for an error message.
fn printable(name: &str) -> String {
    name.chars().take(100).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests;
