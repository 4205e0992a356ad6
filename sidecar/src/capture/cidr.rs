//! Networks in CIDR notation (RFC 4632, RFC 4291 section 2.3).

use std::{fmt, net::IpAddr, str::FromStr};

/// A network; its host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// Why a text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a network in CIDR notation, like 172.20.0.0/16 or fd00:1::/64")]
pub struct CidrError {
    text: String,
}

impl Cidr {
    /// The network of `address` with a prefix of that many bits; `None` if the address has fewer.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let network = match address {
            IpAddr::V4(v4) if prefix <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V4((u32::from(v4) & mask).into())
            }
            IpAddr::V6(v6) if prefix <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V6((u128::from(v6) & mask).into())
            }
            _ => return None,
        };
        Some(Self { network, prefix })
    }

    /// Its address, in network byte order, and a mask of the same length.
    pub fn octets(&self) -> (Vec<u8>, Vec<u8>) {
        let prefix = usize::from(self.prefix);
        let address = match self.network {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let mask = (0..address.len()).map(|i| !(0xff_u8.checked_shr(bits_of_byte(prefix, i)).unwrap_or(0))).collect();
        (address, mask)
    }

    /// Whether it is a network of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.network.is_ipv6()
    }

    /// The network of this address alone.
    pub fn host(address: IpAddr) -> Self {
        Self { network: address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Its first address.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// How many bits its addresses share; 0 is every address there is.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether `address` is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv6() == self.is_ipv6() && Self::new(address, self.prefix) == Some(*self)
    }
}

/// How many bits of byte `index` belong to a prefix.
fn bits_of_byte(prefix: usize, index: usize) -> u32 {
    prefix.saturating_sub(index * 8).min(8).try_into().unwrap_or(8)
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError { text: text.to_owned() };
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| error())?,
            None if address.is_ipv4() => 32,
            None => 128,
        };
        Self::new(address, prefix).ok_or_else(error)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_cleared_and_a_bare_address_is_a_network_of_one() {
        for (text, canonical) in [
            ("172.20.5.6/16", "172.20.0.0/16"),
            ("10.0.0.1", "10.0.0.1/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("10.1.2.3/31", "10.1.2.2/31"),
            ("fd00:1:2:3::4/63", "fd00:1:2:2::/63"),
            ("::1", "::1/128"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), canonical);
        }
    }

    #[test]
    fn what_is_not_a_network_is_refused_with_its_text() {
        for text in ["", "10.0.0.0/33", "fd00::/129", "10.0.0.0/", "10.0.0/8", "name/8", "10.0.0.0/-1"] {
            assert!(text.parse::<Cidr>().unwrap_err().to_string().contains(&format!("`{text}`")), "{text}");
        }
    }

    #[test]
    fn masks_have_as_many_ones_as_the_prefix() {
        for prefix in 0..=32 {
            let (_, mask) = Cidr::new([255; 4].into(), prefix).unwrap().octets();
            assert_eq!(mask.iter().map(|byte| byte.leading_ones()).sum::<u32>(), u32::from(prefix));
        }
        assert_eq!("10.0.0.0/12".parse::<Cidr>().unwrap().octets(), (vec![10, 0, 0, 0], vec![255, 240, 0, 0]));
    }
}
