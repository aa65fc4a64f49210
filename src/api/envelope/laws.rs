//! Versions, as `ETag` says them and conditions name them.

use super::{Condition, etag};

/// A version is found in any list of tags, weak or with a coding, and by no tag that is not its own.
pub fn condition(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let version = data.iter().take(8).fold(0_i64, |version, byte| version << 8 | i64::from(*byte)) & i64::MAX;
    let tag = etag(version);
    let coded = format!("{}-gzip\"", tag.trim_end_matches('"'));
    for written in [tag.clone(), format!("W/{tag}"), coded, format!("\"x\", {tag}")] {
        assert!(Condition::parse(&written).holds(version), "{written}");
        assert!(!Condition::parse(&written).holds(version ^ 1), "{written}");
    }
    // Whatever stands before it: a comma ends it.
    assert!(Condition::parse(&format!("{text},{tag}")).holds(version));
    match Condition::parse(&text) {
        Condition::Any => assert_eq!(text.trim(), "*"),
        Condition::Versions(versions) => {
            assert!(versions.len() <= text.split(',').count());
            for version in versions {
                assert!(version >= 0 && text.contains('"'), "{text:?}");
            }
        }
    }
}
