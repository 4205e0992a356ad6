//! What is told of a workload's history, and when.

use serde_json::{Value, json};

use super::*;
use crate::cluster::candidate::Candidate;
use crate::settings::SwapTarget;

/// A Deployment of `replicas`, whose field managers are (name, time, path).
fn object(replicas: i32, image: &str, managers: &[(&str, &str, &str)]) -> Value {
    let managed: Vec<Value> = managers
        .iter()
        .map(|(manager, time, path)| {
            let owned = json!({ "f:spec": { *path: {} } });
            json!({ "manager": manager, "time": time, "operation": "Update", "fieldsV1": owned })
        })
        .collect();
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "web", "namespace": "staging", "managedFields": managed },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "web", "image": image, "ports": [{ "containerPort": 80 }] }] },
            },
        },
    })
}

fn workload() -> Workload {
    let found: k8s_openapi::api::apps::v1::Deployment = serde_json::from_value(object(2, "web:1", &[])).unwrap();
    let service =
        json!({ "metadata": { "name": "web" }, "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] } });
    let target = SwapTarget { kind: None, name: "web".into(), container: None };
    Candidate::from(found).into_workload(&target, &[serde_json::from_value(service).unwrap()]).unwrap()
}

struct History<'a> {
    meanwhile: Meanwhile<'a>,
    now: Instant,
}

impl<'a> History<'a> {
    fn of(workload: &'a Workload) -> Self {
        Self { meanwhile: Meanwhile::new(workload), now: Instant::now() }
    }

    fn is(&mut self, object: Value) -> Vec<String> {
        self.meanwhile.handle_input(&serde_json::from_value(object).unwrap());
        self.told()
    }

    fn scaled(&mut self, replicas: i32) -> Vec<String> {
        self.is(object(replicas, "web:1", &[]))
    }

    fn told(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.meanwhile.poll_event(self.now)).collect()
    }

    /// Passes the time until something may be told.
    fn later(&mut self) -> Vec<String> {
        let when = self.meanwhile.poll_timeout().expect("something is left to be told");
        assert!(when > self.now && when <= self.now + TELL_EVERY);
        self.now = when;
        self.told()
    }
}

const BACK: &str = "somebody scaled Deployment `web` back to 3: its pods answer service web beside this session. That is \
                    left as it is, at the end too; to change it, stop the controller that does it, if it was one, and \
                    then: kubectl -n staging scale deployment/web --replicas=0";

#[test]
fn a_number_before_the_swap_is_no_news_and_one_after_it_is_told_at_once() {
    let workload = workload();
    let mut history = History::of(&workload);
    for replicas in [2, 4, 0] {
        assert_eq!(history.scaled(replicas), [""; 0]);
    }
    assert_eq!(history.scaled(3), [BACK]);
    assert_eq!(history.scaled(3), [""; 0]);
    // Told is that it is back, and that goes on.
    assert_eq!(history.scaled(4), [""; 0]);
    assert_eq!(history.meanwhile.poll_timeout(), None);
}

#[test]
fn what_happens_again_and_again_is_told_once_in_a_while_with_the_number_of_times() {
    let workload = workload();
    let mut history = History::of(&workload);
    history.scaled(0);
    assert_eq!(history.scaled(3), [BACK]);
    for _ in 0..5 {
        assert_eq!([history.scaled(0), history.scaled(3)], [[""; 0], [""; 0]]);
    }
    assert_eq!(history.later(), [BACK.replace("back to 3:", "back to 3 (5 times):")]);
    assert_eq!(history.meanwhile.poll_timeout(), None);
    assert_eq!(history.scaled(0), [""; 0]);
    assert_eq!(history.later(), ["Deployment `web` is at 0 again: service web is answered here alone"]);
    assert_eq!([history.scaled(3), history.scaled(0)], [[""; 0], [""; 0]]);
    assert_eq!(
        history.later(),
        ["Deployment `web` is at 0 again, after somebody scaled it back: service web is answered here alone"]
    );
}

#[test]
fn only_who_owns_the_field_and_did_not_before_is_named() {
    let workload = workload();
    let own = ("tool", "2030-01-01T00:00:00Z", "f:replicas");
    for (managers, who) in [
        (vec![("argocd-controller", "2030-01-01T00:00:09Z", "f:replicas")], "`argocd-controller`"),
        (vec![("tool", "2030-01-01T00:00:09Z", "f:replicas")], "`tool`"),
        // By the scale subresource, before 1.22.
        (vec![own], "somebody"),
        (vec![own, ("kubectl-edit", "2030-01-01T00:00:09Z", "f:template")], "somebody"),
        (vec![("unknown", "2030-01-01T00:00:09Z", "f:replicas")], "somebody"),
        (vec![], "somebody"),
    ] {
        let mut history = History::of(&workload);
        history.is(object(0, "web:1", &[own]));
        let told = history.is(object(3, "web:1", &managers));
        assert!(told[0].starts_with(&format!("{who} scaled ")), "{managers:?}: {told:?}");
    }
}

#[test]
fn another_pod_template_is_told_with_its_images_and_who_set_it() {
    let workload = workload();
    let mut history = History::of(&workload);
    history.is(object(0, "web:1", &[]));
    let edited = object(0, "web:2", &[("kubectl-set", "2030-01-01T00:00:09Z", "f:template")]);
    let told = "`kubectl-set` changed the pod template of Deployment `web` (web is web:2 now): this session goes on with \
                the environment and files of the one before; the change stays, and the original comes back with it";
    assert_eq!(history.is(edited), [told]);
    assert_eq!(history.scaled(0), [""; 0]);
    assert_eq!(history.later(), ["Deployment `web` has the pod template again that this session began with"]);
}
