//! The expressions that rules are made of: the instructions of `nf_tables` (`linux/netfilter/nf_tables.h`).
//!
//! A rule is a little program: `meta` and the like load something into a register, `cmp` ends the rule unless the
//! register has the wanted value, and a verdict or a statement comes last.

use std::ops::RangeInclusive;

use super::super::netlink::{put, put_nested, put_text};

/// `NFT_REG_1`: 16 bytes, enough for everything compared here.
const REGISTER: u32 = 1;
/// `NFT_REG_2`: for the one expression that takes two values.
const SECOND_REGISTER: u32 = 2;
/// `NFT_REG_VERDICT`
const VERDICT_REGISTER: u32 = 0;
/// `NF_ACCEPT`
const ACCEPT: i32 = 1;
/// `NF_DROP`
const DROP: i32 = 0;
/// `NFT_JUMP`
const JUMP: i32 = -3;
/// `NFT_QUEUE_FLAG_BYPASS`, and the same in the xt target: without a listener the packet goes on.
const QUEUE_BYPASS: u16 = 1;
/// Revision of the xt target NFQUEUE that knows flags.
const NFQUEUE_REVISION: u32 = 3;

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expr {
    /// The kernel's name for it.
    pub(crate) name: &'static str,
    data: Vec<u8>,
}

impl Expr {
    fn new(name: &'static str, fill: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut data = Vec::new();
        fill(&mut data);
        Self { name, data }
    }

    /// Appends it as an element of a rule's list.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_nested(out, 1, |out| {
            put_text(out, 1, self.name);
            put_nested(out, 2, |out| out.extend(&self.data));
        });
    }
}

/// What `meta` can load.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Meta {
    /// The packet's mark, in host byte order.
    Mark = 3,
    /// The name of the interface it leaves through, padded with zeros to 16 bytes.
    OifName = 7,
    /// The protocol above IP (and above IPv6's extension headers), one byte.
    L4Proto = 16,
}

/// `meta KEY`
pub(crate) fn meta(key: Meta) -> Expr {
    load("meta", key as u32)
}

/// What `ct` can load.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ct {
    /// Which way the packet goes in its flow, one byte: 0 original, 1 reply.
    Direction = 1,
    /// Bits `IPS_*`, in host byte order.
    Status = 2,
}

/// `ct KEY`; ends the rule for packets that connection tracking does not know.
pub(crate) fn ct(key: Ct) -> Expr {
    load("ct", key as u32)
}

fn load(name: &'static str, key: u32) -> Expr {
    Expr::new(name, |out| {
        put(out, 1, &REGISTER.to_be_bytes());
        put(out, 2, &key.to_be_bytes());
    })
}

/// The header that a payload's offset counts from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Header {
    /// IP
    Network = 1,
    /// TCP, UDP, ICMP
    Transport = 2,
}

/// `@nh` or `@th`: so many bytes of the packet.
pub(crate) fn payload(header: Header, offset: u32, length: u32) -> Expr {
    Expr::new("payload", |out| {
        for (kind, value) in (1..).zip([REGISTER, header as u32, offset, length]) {
            put(out, kind, &value.to_be_bytes());
        }
    })
}

/// `& MASK`
pub(crate) fn and(mask: &[u8]) -> Expr {
    Expr::new("bitwise", |out| {
        let length = u32::try_from(mask.len()).expect("a mask is at most 16 bytes");
        for (kind, value) in (1..).zip([REGISTER, REGISTER, length]) {
            put(out, kind, &value.to_be_bytes());
        }
        put_nested(out, 4, |out| put(out, 1, mask));
        put_nested(out, 5, |out| put(out, 1, &vec![0; mask.len()]));
    })
}

/// `== VALUE`
pub(crate) fn equal(value: &[u8]) -> Expr {
    compare(0, value)
}

/// `!= VALUE`
pub(crate) fn differs(value: &[u8]) -> Expr {
    compare(1, value)
}

/// `<= VALUE`
pub(crate) fn at_most(value: &[u8]) -> Expr {
    compare(3, value)
}

/// `>= VALUE`
pub(crate) fn at_least(value: &[u8]) -> Expr {
    compare(5, value)
}

fn compare(operator: u32, value: &[u8]) -> Expr {
    Expr::new("cmp", |out| {
        put(out, 1, &REGISTER.to_be_bytes());
        put(out, 2, &operator.to_be_bytes());
        put_nested(out, 3, |out| put(out, 1, value));
    })
}

/// `accept`: ends this base chain; the next one still sees the packet.
pub(crate) fn accept() -> Expr {
    verdict(ACCEPT, None)
}

/// `drop`
pub(crate) fn drop() -> Expr {
    verdict(DROP, None)
}

/// `jump CHAIN`
pub(crate) fn jump(chain: &str) -> Expr {
    verdict(JUMP, Some(chain))
}

fn verdict(code: i32, chain: Option<&str>) -> Expr {
    Expr::new("immediate", |out| {
        put(out, 1, &VERDICT_REGISTER.to_be_bytes());
        put_nested(out, 2, |out| {
            put_nested(out, 2, |out| {
                put(out, 1, &code.to_be_bytes());
                if let Some(chain) = chain {
                    put_text(out, 2, chain);
                }
            });
        });
    })
}

/// `notrack`
pub(crate) fn notrack() -> Expr {
    Expr::new("notrack", |_| ())
}

/// `redirect to :FIRST-LAST`: of this namespace, at a loopback address; the first port whose flow is free.
pub(crate) fn redirect(ports: &RangeInclusive<u16>) -> [Expr; 3] {
    let load = |register: u32, port: u16| {
        Expr::new("immediate", |out| {
            put(out, 1, &register.to_be_bytes());
            put_nested(out, 2, |out| put(out, 1, &port.to_be_bytes()));
        })
    };
    [
        load(REGISTER, *ports.start()),
        load(SECOND_REGISTER, *ports.end()),
        Expr::new("redir", |out| {
            put(out, 1, &REGISTER.to_be_bytes());
            put(out, 2, &SECOND_REGISTER.to_be_bytes());
        }),
    ]
}

/// `reject with tcp reset`
pub(crate) fn reject_with_reset() -> Expr {
    reject(1, 0)
}

/// `reject with icmp(v6) CODE`
pub(crate) fn reject_with_icmp(code: u8) -> Expr {
    reject(0, code)
}

fn reject(kind: u32, code: u8) -> Expr {
    Expr::new("reject", |out| {
        put(out, 1, &kind.to_be_bytes());
        put(out, 2, &[code]);
    })
}

/// `queue to NUMBER`, natively.
pub(crate) fn queue(number: u16, bypass: bool) -> Expr {
    Expr::new("queue", |out| {
        for (kind, value) in (1..).zip([number, 1, u16::from(bypass) * QUEUE_BYPASS]) {
            put(out, kind, &value.to_be_bytes());
        }
    })
}

/// The same by iptables' target, `struct xt_NFQ_info_v3`, for kernels built without nft's own.
pub(crate) fn xt_nfqueue(number: u16, bypass: bool) -> Expr {
    Expr::new("target", |out| {
        put_text(out, 1, "NFQUEUE");
        put(out, 2, &NFQUEUE_REVISION.to_be_bytes());
        let info = [number, 1, u16::from(bypass) * QUEUE_BYPASS, 0].map(u16::to_ne_bytes);
        put(out, 3, info.as_flattened());
    })
}

#[cfg(test)]
mod tests {
    use super::{super::super::netlink::attributes, *};

    fn data(expr: &Expr) -> Vec<(u16, Vec<u8>)> {
        attributes(&expr.data).map(|(kind, value)| (kind, value.to_vec())).collect()
    }

    #[test]
    fn an_expression_is_a_named_element_with_nested_data() {
        let mut out = Vec::new();
        notrack().put(&mut out);
        let (kind, element) = attributes(&out).next().unwrap();
        assert_eq!(kind, 1);
        assert_eq!(attributes(element).collect::<Vec<_>>(), [(1, &b"notrack\0"[..]), (2, &[][..])]);
    }

    #[test]
    fn numbers_are_big_endian_for_nftables_and_native_for_xtables() {
        let native: Vec<_> = [(1, [1, 2]), (2, [0, 1]), (3, [0, 1])].map(|(kind, v)| (kind, v.to_vec())).into();
        assert_eq!(data(&queue(0x0102, true)), native);
        let info = [0x0102_u16, 1, 0, 0].map(u16::to_ne_bytes).concat();
        assert_eq!(data(&xt_nfqueue(0x0102, false))[2], (3, info));
        assert_eq!(data(&xt_nfqueue(0, false))[0].1, b"NFQUEUE\0");
    }

    #[test]
    fn a_jump_names_its_chain_and_a_verdict_is_signed() {
        let jump = data(&jump("exempt"));
        let (_, value) = attributes(&jump[1].1).next().unwrap();
        let value: Vec<_> = attributes(value).collect();
        assert_eq!(value, [(1, &[0xff, 0xff, 0xff, 0xfd][..]), (2, &b"exempt\0"[..])]);
    }

    #[test]
    fn a_mask_comes_with_an_xor_of_its_length() {
        let data = data(&and(&[0xff, 0xf0, 0, 0]));
        assert_eq!(data[2], (3, vec![0, 0, 0, 4]));
        assert_eq!(attributes(&data[3].1).next(), Some((1, &[0xff, 0xf0, 0, 0][..])));
        assert_eq!(attributes(&data[4].1).next(), Some((1, &[0; 4][..])));
    }
}
