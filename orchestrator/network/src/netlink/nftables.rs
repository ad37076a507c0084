//! nf_tables: tables, chains, sets, rules and elements in atomic batches (`linux/netfilter/nf_tables.h`).
//! Numbers in attributes are in network order; data in registers is as the packet or the machine has it.

mod expression;

use rustix::io::Errno;

use self::expression::pairs;
pub(crate) use self::expression::{Expression, Refusal, Register, Verdict};

use super::message::Writer;
use super::{Attributes, Messages, NetlinkError, Socket};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const FAMILY_IPV4: u8 = 2;

const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;

const TABLE_NAME: u16 = 1;
const TABLE_USERDATA: u16 = 6;
const LIST_ELEMENT: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const SET_MAP: u32 = 8;
/// With time-outs, and written by rules.
const SET_LEARNED: u32 = 0x10 | 0x20;
/// How often the kernel takes out elements that have expired; until then nobody finds them.
const SWEEP_MILLISECONDS: u32 = 60_000;
const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;
/// Elements in one message: an attribute holds at most 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// Where a base chain hooks in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook {
    /// `filter` or `nat`.
    pub(crate) kind: &'static str,
    /// `NF_INET_*`.
    pub(crate) number: u32,
    /// Smaller comes first.
    pub(crate) priority: i32,
}

/// What the elements of a set carry.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SetValue {
    /// Nothing: a plain set.
    Nothing,
    /// Data of this many bytes, and the type that `nft list` shows it as.
    Data {
        /// Bytes.
        length: u32,
        /// Type number of the `nft` program.
        shown_as: u32,
    },
    /// A chain to go to.
    Verdict,
}

/// Who writes the elements of a set.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Elements {
    /// We do.
    Given,
    /// Rules do, and they expire; so many at most.
    Learned {
        /// Number of elements.
        most: u32,
    },
}

/// A set or map.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Set {
    /// Its name in the table.
    pub(crate) name: &'static str,
    /// Number by which the rules of the same batch mean it.
    pub(crate) id: u32,
    /// Bytes of a key.
    pub(crate) key_length: u32,
    /// Type number of the `nft` program for the key.
    pub(crate) key_shown_as: u32,
    /// What an element carries.
    pub(crate) value: SetValue,
    /// Who writes them.
    pub(crate) elements: Elements,
}

/// Key and data of an element.
pub(crate) type Element = (Vec<u8>, Vec<u8>);

/// Changes that come into force together or not at all. All of them are in the `ip` family.
pub(crate) struct Batch {
    messages: Messages,
    table: &'static str,
}

impl Batch {
    /// An empty batch for one table.
    pub(crate) fn new(table: &'static str) -> Self {
        let mut messages = Messages::new();
        messages.push(BATCH_BEGIN, REQUEST, &[0, 0, 0, 10], |_| {});
        Self { messages, table }
    }

    /// The bytes so far, for a fingerprint of a rule set.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.messages.bytes()
    }

    /// True if nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.count() == 1
    }

    /// Makes the table; there already is fine, its userdata stays as it is then.
    pub(crate) fn add_table(&mut self, userdata: &[u8]) {
        let table = self.table;
        self.push(NEW_TABLE, CREATE, |w| {
            w.string(TABLE_NAME, table);
            w.be32(2, 0);
            if !userdata.is_empty() {
                w.bytes(TABLE_USERDATA, userdata);
            }
        });
    }

    /// Deletes the table and all in it; it must exist.
    pub(crate) fn delete_table(&mut self) {
        let table = self.table;
        self.push(DELETE_TABLE, 0, |w| w.string(TABLE_NAME, table));
    }

    /// Makes a chain; with a hook it is a base chain that accepts by default.
    pub(crate) fn add_chain(&mut self, name: &str, hook: Option<Hook>) {
        let table = self.table;
        self.push(NEW_CHAIN, CREATE, |w| {
            w.string(1, table);
            w.string(3, name);
            if let Some(hook) = hook {
                w.nest(4, |w| {
                    w.be32(1, hook.number);
                    w.be32(2, hook.priority.cast_unsigned());
                });
                w.be32(5, 1);
                w.string(7, hook.kind);
            }
        });
    }

    /// Makes a set or map.
    pub(crate) fn add_set(&mut self, set: &Set) {
        let table = self.table;
        self.push(NEW_SET, CREATE, |w| {
            w.string(1, table);
            w.string(2, set.name);
            let map = if matches!(set.value, SetValue::Nothing) { 0 } else { SET_MAP };
            let learned = if matches!(set.elements, Elements::Learned { .. }) { SET_LEARNED } else { 0 };
            w.be32(3, map | learned);
            w.be32(4, set.key_shown_as);
            w.be32(5, set.key_length);
            match set.value {
                SetValue::Nothing => {}
                SetValue::Data { length, shown_as } => pairs(w, &[(6, shown_as), (7, length)]),
                SetValue::Verdict => w.be32(6, DATA_TYPE_VERDICT),
            }
            w.be32(10, set.id);
            if let Elements::Learned { most } = set.elements {
                w.nest(9, |w| w.be32(1, most));
                w.be32(12, SWEEP_MILLISECONDS);
            }
        });
    }

    /// Appends a rule to a chain.
    pub(crate) fn add_rule(&mut self, chain: &str, expressions: &[Expression<'_>]) {
        let table = self.table;
        self.push(NEW_RULE, CREATE | APPEND, |w| {
            w.string(1, table);
            w.string(2, chain);
            w.nest(4, |w| {
                for expression in expressions {
                    w.nest(LIST_ELEMENT, |w| {
                        w.string(1, expression.name());
                        w.nest(2, |w| expression.write(w));
                    });
                }
            });
        });
    }

    /// Adds elements with their data (empty for a plain set). An equal element there already is fine, one
    /// with other data is refused (`EEXIST`).
    pub(crate) fn add_elements(&mut self, set: &Set, elements: &[Element]) {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.push_elements(NEW_ELEMENT, CREATE, set, chunk, |(key, value), w| {
                w.nest(1, |w| w.bytes(DATA_VALUE, key));
                if !value.is_empty() {
                    w.nest(2, |w| w.bytes(DATA_VALUE, value));
                }
            });
        }
    }

    /// Adds elements that lead to chains.
    pub(crate) fn add_verdicts(&mut self, set: &Set, elements: &[(Vec<u8>, String)]) {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.push_elements(NEW_ELEMENT, CREATE, set, chunk, |(key, chain), w| {
                w.nest(1, |w| w.bytes(DATA_VALUE, key));
                w.nest(2, |w| Verdict::Goto(chain).write(w));
            });
        }
    }

    /// Deletes elements; they must exist.
    pub(crate) fn delete_elements(&mut self, set: &Set, keys: &[Vec<u8>]) {
        for chunk in keys.chunks(ELEMENTS_PER_MESSAGE) {
            self.push_elements(DELETE_ELEMENT, 0, set, chunk, |key, w| {
                w.nest(1, |w| w.bytes(DATA_VALUE, key));
            });
        }
    }

    /// Puts the batch into force.
    pub(crate) fn commit(mut self, socket: &mut Socket) -> Result<(), NetlinkError> {
        if self.is_empty() {
            return Ok(());
        }
        self.messages.flag_last(ACK);
        self.messages.push(BATCH_END, REQUEST, &[0, 0, 0, 10], |_| {});
        socket.transaction(self.messages)
    }

    fn push_elements<T>(
        &mut self,
        kind: u16,
        flags: u16,
        set: &Set,
        elements: &[T],
        write: impl Fn(&T, &mut Writer<'_>),
    ) {
        let table = self.table;
        self.push(kind, flags, |w| {
            w.string(1, table);
            w.string(2, set.name);
            w.be32(4, set.id);
            w.nest(3, |w| {
                for element in elements {
                    w.nest(LIST_ELEMENT, |w| write(element, w));
                }
            });
        });
    }

    fn push(&mut self, kind: u16, flags: u16, attributes: impl FnOnce(&mut Writer<'_>)) {
        self.messages.push(SUBSYSTEM << 8 | kind, REQUEST | flags, &[FAMILY_IPV4, 0, 0, 0], attributes);
    }
}

/// The userdata of a table, empty where it carries none; `None` where there is no such table.
pub(crate) fn table_userdata(socket: &mut Socket, table: &str) -> Result<Option<Vec<u8>>, NetlinkError> {
    let mut messages = Messages::new();
    messages.push(SUBSYSTEM << 8 | GET_TABLE, REQUEST | ACK, &[FAMILY_IPV4, 0, 0, 0], |w| {
        w.string(TABLE_NAME, table);
    });
    let mut found = None;
    let answer = socket.dump(messages, |_, payload| {
        let attributes = Attributes::after(payload, 4);
        found = Some(attributes.get(TABLE_USERDATA).unwrap_or(&[]).to_vec());
    });
    match answer {
        Ok(()) => Ok(found),
        Err(error) if error.is(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every element (key, data) of a set.
pub(crate) fn elements(socket: &mut Socket, table: &str, set: &str) -> Result<Vec<Element>, NetlinkError> {
    let mut messages = Messages::new();
    messages.push(SUBSYSTEM << 8 | GET_ELEMENT, REQUEST | DUMP, &[FAMILY_IPV4, 0, 0, 0], |w| {
        w.string(1, table);
        w.string(2, set);
    });
    let mut found = Vec::new();
    socket.dump(messages, |_, payload| {
        for (_, element) in Attributes::after(payload, 4).nested(3).into_iter().flatten() {
            let element = Attributes::after(element, 0);
            let value = |kind| element.nested(kind).and_then(|data| data.get(DATA_VALUE)).map(<[u8]>::to_vec);
            found.extend(value(1).map(|key| (key, value(2).unwrap_or_default())));
        }
    })?;
    Ok(found)
}

/// Deletes a table; absent is fine.
pub(crate) fn delete_table(socket: &mut Socket, table: &'static str) -> Result<(), NetlinkError> {
    let mut batch = Batch::new(table);
    batch.delete_table();
    match batch.commit(socket) {
        Err(error) if error.is(Errno::NOENT) => Ok(()),
        other => other,
    }
}
