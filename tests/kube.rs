//! The cluster's side against a real cluster (`make cluster`, or `TPDOCKER_TEST_KUBECONFIG`). Each test has a namespace
//! of its own, deleted at its end unless `TPDOCKER_TEST_KEEP` is set; the only image used is one of the staging example.

#[path = "kube/connecting.rs"]
mod connecting;
#[path = "kube/doctor.rs"]
mod doctor;
#[path = "kube/holding.rs"]
mod holding;
#[path = "kube/letter.rs"]
mod letter;
#[path = "plan/support.rs"]
mod manifests;
#[path = "kube/others.rs"]
mod others;
#[path = "kube/pump.rs"]
mod pump;
#[path = "kube/requests.rs"]
mod requests;
#[path = "kube/rights.rs"]
mod rights;
#[path = "kube/starting.rs"]
mod starting;
#[path = "kube/support.rs"]
mod support;
#[path = "kube/swapping.rs"]
mod swapping;
