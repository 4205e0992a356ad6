//! The plan as a table: pod's mounts and user's mounts in, one line for each decision out.

use super::*;

fn published(path: &str, part: bool) -> PodMount {
    let source = Source::Published;
    PodMount { path: path.into(), volume: "config".into(), part, read_only: false, source, shared_with: vec![] }
}

fn scratch(path: &str, memory: bool, size: Option<u64>) -> PodMount {
    PodMount { source: Source::Scratch { memory, size }, volume: "cache".into(), ..published(path, false) }
}

fn claim(path: &str, in_proxy: bool) -> PodMount {
    let source = Source::Storage { what: "claim app-data".into(), claim: Some("app-data".into()), in_proxy };
    PodMount { source, volume: "data".into(), ..published(path, false) }
}

fn user(path: &str) -> UserMount {
    UserMount { path: path.into(), is_file: false }
}

fn choose(name: &str, choice: VolumeChoice) -> BTreeMap<String, VolumeChoice> {
    [(name.to_owned(), choice)].into()
}

/// One line a mount or notice.
fn lines(pod: &[PodMount], user: &[UserMount], choices: &BTreeMap<String, VolumeChoice>) -> Vec<String> {
    let plan = plan(pod, user, choices).unwrap();
    let mounts = plan.mounts.iter().enumerate().map(|(index, mount)| {
        let below: Vec<_> = mount.below.iter().map(|below| below.path.as_str()).collect();
        format!("{} {:?} {} [{}]", mount.path, mount.fill, plan.place(index), below.join(" "))
    });
    let laptop = plan.laptop.iter().map(|mount| format!("{} from {}", mount.target, mount.source.clone().unwrap()));
    mounts.chain(laptop).chain(plan.notices.iter().cloned()).collect()
}

#[test]
fn what_the_kubelet_publishes_is_in_memory_and_followed_unless_it_is_a_part() {
    let pod = [published("/etc/app/", false), published("/etc/app.conf", true), published("/var/run/secrets/x", false)];
    assert_eq!(
        lines(&pod, &[], &BTreeMap::new()),
        ["/etc/app Follow memory/0 []", "/etc/app.conf Copy memory/1 []", "/var/run/secrets/x Follow memory/2 []",]
    );
    let stores = plan(&pod, &[], &BTreeMap::new()).unwrap().stores;
    assert_eq!(stores, [Store { name: "memory".into(), medium: Medium::Memory { size: Some(PUBLISHED_SIZE) } }]);
}

#[test]
fn scratch_volumes_are_on_disk_or_in_a_memory_of_their_own_size() {
    let pod = [scratch("/cache", false, Some(1)), scratch("/shm", true, Some(64)), scratch("/more", true, None)];
    let plan = plan(&pod, &[], &BTreeMap::new()).unwrap();
    let stores: Vec<_> = plan.stores.iter().map(|store| (store.name.as_str(), store.medium)).collect();
    let memory = |size| Medium::Memory { size };
    assert_eq!(stores, [("disk", Medium::Disk), ("scratch-1", memory(Some(64))), ("scratch-2", memory(None))]);
    let shared = PodMount { shared_with: vec!["sibling".into()], ..scratch("/cache", false, None) };
    let told = lines(&[shared], &[], &BTreeMap::new());
    assert!(told[1].contains("/cache is shared with sibling in the pod"), "{told:?}");
    let twice = [scratch("/a", false, None), scratch("/b", false, None)];
    let told = lines(&twice, &[], &BTreeMap::new());
    assert_eq!(told[2..], ["/a and /b are of one volume in the pod and apart in the app"]);
}

#[test]
fn what_the_user_mounts_at_or_above_a_path_wins_and_is_said() {
    let pod = [published("/etc/app", false)];
    for (mine, wins) in [("/etc/app", true), ("/etc/", true), ("/", true), ("/etc/apps", false), ("/et", false)] {
        let told = lines(&pod, &[user(mine)], &BTreeMap::new());
        assert_eq!(told[0].contains("is yours"), wins, "{mine}: {told:?}");
    }
}

#[test]
fn what_the_user_mounts_below_a_path_gets_a_mount_point_and_ends_the_refreshing() {
    let told = lines(&[published("/etc/app", false)], &[user("/etc/app/tls//ca")], &BTreeMap::new());
    assert_eq!(told[0], "/etc/app Copy memory/0 [tls/ca]");
    assert!(told[1].contains("not refreshed"), "{told:?}");
}

#[test]
fn storage_is_missing_and_said_unless_a_flag_says_otherwise() {
    let told = lines(&[claim("/data", true)], &[], &BTreeMap::new());
    assert_eq!(
        told,
        ["/data is missing: claim app-data of the pod; --pod-volume app-data=copy, empty or a directory gives it"]
    );
    for name in ["data", "app-data"] {
        let with = |choice| lines(&[claim("/data", true)], &[], &choose(name, choice));
        assert_eq!(with(VolumeChoice::Skip), [""; 0]);
        assert_eq!(with(VolumeChoice::Empty), ["/data Empty disk/0 []"]);
        assert_eq!(with(VolumeChoice::Copy), ["/data Copy disk/0 []"]);
        assert_eq!(with(VolumeChoice::Laptop("/srv".into())), ["/data from /srv"]);
    }
    let copied = plan(&[claim("/data", false)], &[], &choose("data", VolumeChoice::Copy));
    assert!(matches!(copied, Err(PlanError::NotCopied(_))), "the proxy's pod does not have it");
}

#[test]
fn a_choice_for_a_volume_that_is_not_there_is_refused_with_those_that_are() {
    let refused = plan(&[claim("/data", true)], &[], &choose("date", VolumeChoice::Skip));
    let Err(PlanError::Unknown(unknown)) = refused else { panic!("{refused:?}") };
    assert_eq!(unknown.known, ["data"]);
}

#[test]
fn the_users_mounts_are_read_from_both_flags_and_a_file_of_the_laptop_is_known_for_one() {
    let app = AppSpec {
        binds: vec!["/src/a.conf:/etc/a.conf:ro".into(), "named:/data".into(), "/anonymous".into()],
        mounts: vec![MountSpec {
            kind: MountKind::Volume,
            source: Some("/src/a.conf".into()),
            target: "/mnt".into(),
            read_only: false,
        }],
        ..AppSpec::default()
    };
    let told = user_mounts(&app, |path| path == "/src/a.conf");
    let told: Vec<_> = told.iter().map(|mount| (mount.path.as_str(), mount.is_file)).collect();
    assert_eq!(told, [("/etc/a.conf", true), ("/data", false), ("/anonymous", false), ("/mnt", false)]);
}
