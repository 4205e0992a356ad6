//! Quantities, as Kubernetes writes them: `100m`, `64Mi`, `1G`, `1e3`, `128974848`.
//! <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>

/// The number that a quantity means; `None` for what is none.
pub(super) fn value(quantity: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 15] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    if let Ok(plain) = quantity.parse() {
        return Some(plain);
    }
    let (number, factor) =
        SUFFIXES.iter().find_map(|(suffix, factor)| Some((quantity.strip_suffix(suffix)?, factor)))?;
    number.parse::<f64>().ok().map(|number| number * factor)
}

/// A quantity of bytes, rounded up; `None` when it is none or below zero.
pub(super) fn bytes(quantity: &str) -> Option<u64> {
    let size = value(quantity)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
    (0.0..9e18).contains(&size).then(|| size.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_mean_what_kubernetes_says() {
        let cases = [("100m", 0.1), ("2", 2.0), ("0.5", 0.5), ("64Mi", 67_108_864.0), ("1e3", 1000.0), ("1k", 1000.0)];
        for (text, number) in cases {
            assert_eq!(value(text), Some(number), "{text}");
        }
        assert_eq!(value("plenty"), None);
    }

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, size) in [
            ("64Mi", Some(64 << 20)),
            ("1Gi", Some(1 << 30)),
            ("500M", Some(500_000_000)),
            ("1500m", Some(2)),
            ("1e3", Some(1000)),
            ("0", Some(0)),
            ("-1", None),
            ("much", None),
            ("", None),
        ] {
            assert_eq!(bytes(text), size, "{text}");
        }
    }
}
