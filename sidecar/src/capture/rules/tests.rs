//! What the chains are made of, as nft text, for the specifications that change them.

use super::*;

fn texts(spec: &TableSpec<'_>, chain: &str) -> Vec<String> {
    let table = spec.table();
    let chain = table.chains.into_iter().find(|candidate| candidate.name == chain).unwrap();
    chain.rules.into_iter().map(|rule| rule.text).collect()
}

fn spec(family: Family, bypass: &[Cidr]) -> TableSpec<'_> {
    static NONE: Addresses = Addresses { pod: Vec::new(), container: Vec::new() };
    TableSpec { family, queue: QueueKind::Nft, listeners: Some(1..=8), bypass, addresses: &NONE, served: true }
}

#[test]
fn the_pods_loopback_and_address_are_looked_at_and_dockers_resolver_is_not() {
    let addresses = Addresses {
        pod: ["10.244.0.7", "fd00:244::7"].map(|ip| ip.parse().unwrap()).into(),
        container: [("172.17.0.2", "172.17.0.0/16"), ("fd00::2", "fd00::/64")]
            .map(|(ip, network)| (ip.parse().unwrap(), network.parse().unwrap()))
            .into(),
    };
    let bypass = ["10.9.0.0/16".parse().unwrap()];
    let v4 = TableSpec { addresses: &addresses, ..spec(Family::Ip, &bypass) };
    assert_eq!(
        texts(&v4, "inside")[2..],
        [
            "ip daddr 127.0.0.11/32 accept",
            "ip daddr 127.0.0.0/8 jump unserved",
            "ip daddr 10.244.0.7/32 jump unserved",
            "accept"
        ]
    );
    assert_eq!(
        texts(&v4, "arrive"),
        [
            "ip daddr 172.17.0.2/32 meta l4proto tcp dnat to 10.244.0.7",
            "ip saddr 172.17.0.0/16 accept",
            "ip saddr 10.9.0.0/16 accept",
            "ip daddr 172.17.0.2/32 meta l4proto udp dnat to 10.244.0.7"
        ]
    );
    let v6 = TableSpec { addresses: &addresses, ..spec(Family::Ip6, &bypass) };
    assert_eq!(
        texts(&v6, "inside")[2..],
        ["ip6 daddr ::1/128 jump unserved", "ip6 daddr fd00:244::7/128 jump unserved", "accept"]
    );
}

#[test]
fn a_kernel_that_cannot_tell_what_is_served_leaves_loopback_alone() {
    let table = TableSpec { served: false, ..spec(Family::Ip, &[]) }.table();
    assert!(!table.chains.iter().any(|chain| ["inside", "unserved"].contains(&chain.name)));
}

#[test]
fn each_family_exempts_its_own_bypass_networks() {
    let bypass = ["172.20.0.0/16", "fd00::/8"].map(|text| text.parse().unwrap());
    let v4 = texts(&spec(Family::Ip, &bypass), "exempt");
    assert_eq!(v4, ["ip saddr 127.0.0.0/8 drop", "ip daddr 172.20.0.0/16 accept", "ct direction reply accept"]);
    let v6 = texts(&spec(Family::Ip6, &bypass), "exempt");
    assert_eq!(v6[..3], ["ip6 saddr ::1/128 drop", "ip6 daddr fd00::/8 accept", "ct direction reply accept"]);
    assert_eq!(v6.len(), 6);
}

#[test]
fn without_a_listener_everything_is_rejected_and_nothing_is_redirected() {
    let spec = TableSpec { listeners: None, ..spec(Family::Ip6, &[]) };
    assert_eq!(texts(&spec, "hold").last().unwrap(), "reject with icmpv6 no-route");
    assert!(texts(&spec, "redirect").is_empty());
}

#[test]
fn both_kinds_of_queue_use_their_own_expression() {
    for (queue, name) in [(QueueKind::Nft, "queue"), (QueueKind::Xt, "target")] {
        let table = TableSpec { queue, ..spec(Family::Ip, &[]) }.table();
        let rules = table.chains.iter().flat_map(|chain| &chain.rules);
        assert_eq!(rules.filter(|rule| rule.exprs.last().unwrap().name == name).count(), 5);
    }
}
