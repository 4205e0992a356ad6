use std::collections::BTreeMap;
use std::io::Read;

use super::*;

fn members(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(tar);
    archive
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            assert_eq!(entry.header().mtime().unwrap(), 0);
            assert_eq!(entry.header().uid().unwrap(), 0);
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            (entry.path().unwrap().to_string_lossy().into_owned(), data)
        })
        .collect()
}

fn recipe() -> Recipe {
    Recipe {
        name: "thing",
        title: "a thing",
        description: "a thing for tests",
        path: "/thing",
        arguments: &["go"],
        user: Some(7),
        compressed: &[],
    }
}

#[test]
fn the_same_binary_gives_the_same_archive_and_another_binary_another_digest() {
    let write = |binary: &[u8]| {
        let archive = Archive::new(&recipe(), binary);
        let mut tar = Vec::new();
        archive.write("a/b:c", &mut tar).unwrap();
        (archive.config_digest().to_owned(), tar)
    };
    assert_eq!(write(b"one"), write(b"one"));
    assert_ne!(write(b"one").0, write(b"two").0);
}

#[test]
fn an_archive_holds_what_its_manifest_names() {
    let archive = Archive::new(&recipe(), b"binary");
    let mut tar = Vec::new();
    archive.write("tpdocker/thing:1", &mut tar).unwrap();
    let outer = members(&tar);
    let manifest: serde_json::Value = serde_json::from_slice(&outer["manifest.json"]).unwrap();
    assert_eq!(manifest[0]["RepoTags"][0], "tpdocker/thing:1");
    let config: serde_json::Value = serde_json::from_slice(&outer[manifest[0]["Config"].as_str().unwrap()]).unwrap();
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/thing", "go"]));
    assert_eq!(config["config"]["User"], "7:7");
    let layer = &outer[manifest[0]["Layers"][0].as_str().unwrap()];
    assert_eq!(members(layer), BTreeMap::from([("thing".to_owned(), b"binary".to_vec())]));
}

#[test]
fn both_carried_binaries_are_static_executables_in_an_image_of_their_own() {
    for (image, path) in [(sidecar(), "tpdocker-sidecar"), (proxy(), "tpdocker-proxy")] {
        let tag = image.reference().rsplit_once('-').unwrap().1;
        assert_eq!(tag.len(), TAG_DIGITS);
        let outer = members(&image.to_tar().unwrap());
        let layer = outer.iter().find(|(name, _)| name.ends_with("/layer.tar")).unwrap().1;
        let binary = &members(layer)[path];
        assert_eq!(&binary[..4], b"\x7fELF");
        assert!(!binary.windows(9).any(|bytes| bytes == b"ld-linux-"), "{path} asks for a dynamic loader");
    }
}
