use super::*;

fn run(raw: &str) -> Result<(String, PathForm, String), UriFault> {
    let mut path = Vec::new();
    let form = canonical(raw.as_bytes(), &Paths::default(), &mut path)?;
    let mut encoded = Vec::new();
    canonical_encoded(raw.as_bytes(), &Paths::default(), &mut encoded)?;
    let upstream = if form == PathForm::AsWritten { raw.to_owned() } else { String::from_utf8(encoded).unwrap() };
    Ok((String::from_utf8_lossy(&path).into_owned(), form, upstream))
}

#[test]
fn ordinary_paths_arrive_as_written() {
    for (raw, path) in [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a%2Fb", "/a/b"),
        ("//a///b//", "/a/b/"),
        ("/a;v=1/b", "/a;v=1/b"),
        ("/a%3Fb", "/a?b"),
        ("/caf%C3%A9", "/café"),
        ("/a%20b%25", "/a b%"),
        ("/a.b/..c/...", "/a.b/..c/..."),
        ("/a%2F%2Fb", "/a/b"),
        ("/.hidden", "/.hidden"),
    ] {
        assert_eq!(run(raw), Ok((path.into(), PathForm::AsWritten, raw.into())), "{raw}");
    }
}

#[test]
fn literal_dot_segments_are_resolved() {
    for (raw, path, upstream) in [
        ("/a/./b", "/a/b", "/a/b"),
        ("/a/../b", "/b", "/b"),
        ("/a/%2e%2E/b", "/b", "/b"),
        ("/a/..", "/", "/"),
        ("/a/.", "/a/", "/a/"),
        ("/a/b/../c%20d;x%3By", "/a/c d;x;y", "/a/c%20d;x%3By"),
        ("/a//../b", "/b", "/b"),
        ("/./caf%c3%a9", "/café", "/caf%C3%A9"),
    ] {
        assert_eq!(run(raw), Ok((path.into(), PathForm::Canonical, upstream.into())), "{raw}");
    }
}

#[test]
fn what_two_readers_could_take_differently_is_refused() {
    use UriFault::*;
    for (raw, fault) in [
        ("/a%2F..%2Fb", HiddenDots),
        ("/a%5C..%5Cb", HiddenDots),
        ("/a%2f%2e%2e/b", HiddenDots),
        ("/a/..;x/b", DotParameter),
        ("/a/.;/b", DotParameter),
        ("/a/%2e%2e%3bx/b", DotParameter),
        ("/;x/b", EmptyParameter),
        ("/a\\b", RawMark),
        ("/a#b", RawMark),
        ("/a%00", Nul),
        ("/a%", Escape),
        ("/a%2", Escape),
        ("/a%zz", Escape),
        ("/..", AboveRoot),
        ("/a/../../b", AboveRoot),
    ] {
        assert_eq!(run(raw).map(|_| ()), Err(fault), "{raw}");
    }
}

#[test]
fn the_configuration_tightens_and_loosens() {
    let refuse = Paths { encoded_slash: EncodedMark::Refuse, ..Paths::default() };
    assert_eq!(canonical(b"/a%2Fb", &refuse, &mut Vec::new()), Err(UriFault::Refused));
    let decode = Paths { encoded_slash: EncodedMark::Decode, ..Paths::default() };
    assert_eq!(canonical(b"/a%2Fb", &decode, &mut Vec::new()), Ok(PathForm::Canonical));
    let plain = Paths { parameters: false, ..Paths::default() };
    assert_eq!(canonical(b"/a;b", &plain, &mut Vec::new()), Err(UriFault::Refused));
    let unmerged = Paths { merge_slashes: false, ..Paths::default() };
    let mut path = Vec::new();
    assert_eq!(canonical(b"//a//b", &unmerged, &mut path), Ok(PathForm::AsWritten));
    assert_eq!(path, b"//a//b");
}

#[test]
fn canonical_paths_are_fixed_points() {
    // Encoding a canonical path and reading it again gives the same path: nothing is decoded twice.
    for raw in ["/a%252e%252e/b", "/x/../y%2525", "/a/./b%3f", "/%7e/../a"] {
        let (path, ..) = run(raw).unwrap();
        let mut encoded = Vec::new();
        canonical_encoded(raw.as_bytes(), &Paths::default(), &mut encoded).unwrap();
        let (again, ..) = run(std::str::from_utf8(&encoded).unwrap()).unwrap();
        assert_eq!(path, again, "{raw}");
    }
}

#[test]
fn targets_are_split() {
    let split = split_target(b"/a?b=c").unwrap();
    assert_eq!((split.path, split.query, split.origin), ((0, 2), Some((3, 3)), (0, 6)));
    let split = split_target(b"http://h:80/a").unwrap();
    assert_eq!((split.authority, split.path, split.origin), (Some((7, 4)), (11, 2), (11, 2)));
    let split = split_target(b"http://h?x").unwrap();
    assert_eq!((split.authority, split.path, split.query), (Some((7, 1)), (8, 0), Some((9, 1))), "an empty path is `/`");
    for bad in [&b"a"[..], b"ftp://h/", b"http:///", b"http://?x", b"**", b""] {
        assert_eq!(split_target(bad), None, "{bad:?}");
    }
}

#[test]
fn authorities() {
    for good in ["a", "a.b:80", "[::1]", "[::1]:8080", "127.0.0.1:1", "a_b", "h:"] {
        assert!(is_authority(good.as_bytes()), "{good}");
    }
    for bad in ["", ":80", "a b", "a/b", "u@h", "[::1", "[zz]", "a:b", "a:123456", "a:80:80", "h\t"] {
        assert!(!is_authority(bad.as_bytes()), "{bad}");
    }
    assert_eq!(host_of(b"[::1]:80"), b"[::1]");
}

#[test]
fn arguments() {
    let value = |text: &[u8]| Some(Arg::Value(Cow::Owned(text.to_vec())));
    assert_eq!(query_arg(b"a=1&b=x+y%21&a=2", b"a"), value(b"1"));
    assert_eq!(query_arg(b"a=1&b=x+y%21", b"b"), value(b"x y!"));
    assert_eq!(query_arg(b"flag&e=", b"flag"), Some(Arg::Flag));
    assert_eq!(query_arg(b"flag&e=", b"e"), value(b""));
    assert_eq!(query_arg(b"", b"a"), None);
    assert_eq!(query_arg(b"a%62=1", b"ab"), value(b"1"));
}
