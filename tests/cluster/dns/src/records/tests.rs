//! What the specification says, one sentence a test, on one small cluster.

use hickory_server::proto::rr::{Name, RecordType};
use serde_json::{Value, from_value, json};

use super::*;
use crate::zone::Answer;

#[test]
fn a_service_has_the_address_of_its_cluster_ip() {
    assert_eq!(ask("web.shop.svc.cluster.local.", RecordType::A), ["A 10.96.0.7"]);
    assert_eq!(ask("WEB.Shop.svc.cluster.LOCAL.", RecordType::A), ["A 10.96.0.7"]);
}

#[test]
fn a_dual_stack_service_has_both_kinds_of_address() {
    assert_eq!(ask("dual.shop.svc.cluster.local.", RecordType::A), ["A 10.96.0.8"]);
    assert_eq!(ask("dual.shop.svc.cluster.local.", RecordType::AAAA), ["AAAA fd00::8"]);
}

#[test]
fn a_named_port_has_a_srv_record_and_an_unnamed_one_has_none() {
    let web = "web.shop.svc.cluster.local.";
    assert_eq!(ask(&format!("_http._tcp.{web}"), RecordType::SRV), [format!("SRV 0 100 80 {web}")]);
    assert_eq!(ask(&format!("_dns._udp.{web}"), RecordType::SRV), [format!("SRV 0 100 53 {web}")]);
    assert_eq!(ask(&format!("_http._udp.{web}"), RecordType::SRV), ["no such name"]);
    assert_eq!(ask("_tcp.dual.shop.svc.cluster.local.", RecordType::SRV), ["no such name"]);
}

#[test]
fn a_headless_service_has_the_addresses_of_its_ready_pods() {
    let addresses = ask("db.shop.svc.cluster.local.", RecordType::A);
    assert_eq!(addresses, ["A 10.244.0.5", "A 10.244.0.6"]);
}

#[test]
fn a_pod_with_a_hostname_is_a_name_below_its_service_and_any_other_is_its_address() {
    assert_eq!(ask("db-0.db.shop.svc.cluster.local.", RecordType::A), ["A 10.244.0.5"]);
    assert_eq!(ask("10-244-0-6.db.shop.svc.cluster.local.", RecordType::A), ["A 10.244.0.6"]);
    assert_eq!(ask("db-1.db.shop.svc.cluster.local.", RecordType::A), ["no such name"]);
}

#[test]
fn srv_records_of_a_headless_service_name_each_pod_and_the_port_it_listens_on() {
    let srv = ask("_pg._tcp.db.shop.svc.cluster.local.", RecordType::SRV);
    assert_eq!(
        srv,
        ["SRV 0 100 5432 db-0.db.shop.svc.cluster.local.", "SRV 0 100 5432 10-244-0-6.db.shop.svc.cluster.local."]
    );
}

#[test]
fn addresses_lead_back_to_names() {
    assert_eq!(ask("7.0.96.10.in-addr.arpa.", RecordType::PTR), ["PTR web.shop.svc.cluster.local."]);
    assert_eq!(ask("5.0.244.10.in-addr.arpa.", RecordType::PTR), ["PTR db-0.db.shop.svc.cluster.local."]);
    let v6 = Name::from("fd00::8".parse::<std::net::IpAddr>().unwrap()).to_ascii();
    assert_eq!(ask(&v6, RecordType::PTR), ["PTR dual.shop.svc.cluster.local."]);
    assert_eq!(ask("1.2.0.192.in-addr.arpa.", RecordType::PTR), ["not mine"]);
}

#[test]
fn an_external_name_is_an_alias_whatever_is_asked() {
    assert_eq!(ask("pay.shop.svc.cluster.local.", RecordType::A), ["CNAME pay.example.com."]);
    assert_eq!(ask("pay.shop.svc.cluster.local.", RecordType::TXT), ["CNAME pay.example.com."]);
}

#[test]
fn no_data_is_not_the_same_as_no_such_name() {
    assert_eq!(ask("web.shop.svc.cluster.local.", RecordType::AAAA), ["no data"]);
    assert_eq!(ask("web.shop.svc.cluster.local.", RecordType::TXT), ["no data"]);
    for exists_only_above_others in
        ["shop.svc.cluster.local.", "svc.cluster.local.", "_tcp.web.shop.svc.cluster.local."]
    {
        assert_eq!(ask(exists_only_above_others, RecordType::A), ["no data"]);
    }
    assert_eq!(ask("webb.shop.svc.cluster.local.", RecordType::A), ["no such name"]);
    assert_eq!(ask("web.shop.svc.cluster.local.cluster.local.", RecordType::A), ["no such name"]);
    assert_eq!(ask("web.shop.svc.", RecordType::A), ["not mine"]);
}

#[test]
fn a_service_without_ready_pods_still_has_its_address_unless_it_is_headless() {
    assert_eq!(ask("empty.shop.svc.cluster.local.", RecordType::A), ["no such name"]);
}

#[test]
fn names_of_the_hosts_file_are_known_and_their_neighbours_are_not_ours() {
    let database = "mydb.abc123.us-east-1.rds.amazonaws.com.";
    assert_eq!(ask(database, RecordType::A), ["A 10.231.20.20"]);
    assert_eq!(ask(database, RecordType::AAAA), ["no data"]);
    assert_eq!(ask("other.us-east-1.rds.amazonaws.com.", RecordType::A), ["not mine"]);
    assert_eq!(ask("us-east-1.rds.amazonaws.com.", RecordType::A), ["not mine"]);
}

#[test]
fn a_hosts_file_may_have_comments_aliases_and_nonsense() {
    let parsed = hosts("# all of it\n10.0.0.1 a.example b.example # two\n\nnonsense line\n::1 c.example\n");
    let text: Vec<_> = parsed.iter().map(|(address, name)| format!("{address} {name}")).collect();
    assert_eq!(text, ["10.0.0.1 a.example.", "10.0.0.1 b.example.", "::1 c.example."]);
}

#[test]
fn the_specification_has_a_version() {
    assert_eq!(ask("dns-version.cluster.local.", RecordType::TXT), ["TXT 1.1.0"]);
}

#[test]
fn there_are_texts_too_long_for_a_datagram() {
    for bytes in [600, 5000] {
        let [text] = ask(&format!("txt-{bytes}.dns-version.cluster.local."), RecordType::TXT).try_into().unwrap();
        assert_eq!(text.chars().filter(char::is_ascii_digit).count(), bytes, "{text}");
    }
}

fn ask(name: &str, kind: RecordType) -> Vec<String> {
    let domain = Name::from_ascii("cluster.local.").unwrap();
    match zone(&domain, &cluster()).lookup(&Name::from_ascii(name).unwrap(), kind) {
        Answer::Records(records) => {
            records.iter().map(|record| format!("{} {}", record.record_type(), record.data)).collect()
        }
        Answer::NoData => vec!["no data".to_owned()],
        Answer::NoSuchName => vec!["no such name".to_owned()],
        Answer::NotMine => vec!["not mine".to_owned()],
    }
}

fn cluster() -> Snapshot {
    let service = |name: &str, spec: Value| {
        Arc::new(from_value(json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec})).unwrap())
    };
    let endpoints = |name: &str, subsets: Value| {
        Arc::new(from_value(json!({"metadata": {"name": name, "namespace": "shop"}, "subsets": subsets})).unwrap())
    };
    Snapshot {
        services: vec![
            service(
                "web",
                json!({"clusterIP": "10.96.0.7", "ports": [
                {"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
            ),
            service(
                "dual",
                json!({"clusterIP": "10.96.0.8", "clusterIPs": ["10.96.0.8", "fd00::8"],
                "ports": [{"port": 80}]}),
            ),
            service("db", json!({"clusterIP": "None", "ports": [{"name": "pg", "port": 1}]})),
            service("empty", json!({"clusterIP": "None", "ports": [{"name": "pg", "port": 1}]})),
            service("pay", json!({"type": "ExternalName", "externalName": "pay.example.com"})),
        ],
        endpoints: vec![
            endpoints("web", json!([{"addresses": [{"ip": "10.244.0.9"}], "ports": [{"name": "http", "port": 8080}]}])),
            endpoints(
                "db",
                json!([{
                "addresses": [{"ip": "10.244.0.5", "hostname": "db-0"}, {"ip": "10.244.0.6"}],
                "notReadyAddresses": [{"ip": "10.244.0.7", "hostname": "db-1"}],
                "ports": [{"name": "pg", "port": 5432}]}]),
            ),
        ],
        hosts: hosts("10.231.20.20 mydb.abc123.us-east-1.rds.amazonaws.com"),
    }
}
