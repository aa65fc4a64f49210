//! Finds out about when the oldest thing in a list was made, in few questions.

/// 2011-01-01, in Unix seconds: Stripe had nothing before.
pub(super) const BEGINNING: i64 = 1_293_840_000;
/// Stripe tells times in seconds.
const FINE: i64 = 1;

/// A time before which nothing was made: sooner than the oldest of all by a hundredth of the way from there to `newest`, or by
/// a second, at most, and not before `beginning`. `older` tells when the newest was made of those that had been made before a
/// time; none: there are none. Times are Unix seconds.
///
/// Ways may be of seconds or of years, so what is halved is the order of magnitude: this takes a dozen questions or less.
///
/// # Errors
/// What `older` fails with.
pub(super) async fn oldest<F, E>(newest: i64, beginning: i64, older: impl Fn(i64) -> F) -> Result<i64, E>
where
    F: Future<Output = Result<Option<i64>, E>>,
{
    // Distances from the newest: something was made at `near`, nothing beyond `far`.
    let (mut near, mut far) = (0, (newest - beginning).max(FINE));
    while far - near > (near / 100).max(FINE) {
        let middle = (near.max(FINE) as f64 * far as f64).sqrt() as i64;
        let middle = middle.clamp(near + 1, far - 1);
        match older(newest - middle).await? {
            Some(made) => near = (newest - made).clamp(middle + 1, far),
            None => far = middle,
        }
    }
    Ok(newest - far)
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::ready};

    use super::*;

    /// What is found of a list, and with how many questions.
    async fn found(list: &[i64]) -> (i64, u32) {
        let asked = Cell::new(0);
        let older = |than| {
            asked.set(asked.get() + 1);
            ready(Ok::<_, ()>(list.iter().copied().filter(|made| *made < than).max()))
        };
        let newest = list.iter().copied().max().unwrap();
        (oldest(newest, BEGINNING, older).await.unwrap(), asked.get())
    }

    #[tokio::test]
    async fn the_oldest_is_found_in_a_dozen_questions_wherever_it_is() {
        const NOW: i64 = 1_760_000_000;
        // Ways of a second up to all the time there is, things in bursts and far apart.
        for way in (0..29).map(|power| 1_i64 << power).chain([NOW - BEGINNING]) {
            for shape in [1, 2, 3, 7, 50] {
                let steps = (0..=shape).map(|n: i64| NOW - way * n.pow(3) / shape.pow(3));
                let list: Vec<_> = steps.flat_map(|made| [made; 3]).collect();
                let (found, asked) = found(&list).await;
                let truth = NOW - way;
                assert!(found <= truth, "{way} s in {shape} steps: nothing was made before");
                assert!(truth - found <= (way / 100).max(FINE) + 1, "{way} s in {shape} steps: {found}");
                assert!(asked <= 13, "{way} s in {shape} steps: {asked} questions");
            }
        }
    }

    #[tokio::test]
    async fn what_contradicts_itself_comes_to_an_end() {
        for answer in [None, Some(0), Some(i64::MAX / 2)] {
            let found = oldest(1_760_000_000, BEGINNING, |_| ready(Ok::<_, ()>(answer))).await.unwrap();
            assert!((BEGINNING..=1_760_000_000).contains(&found), "{answer:?}: {found}");
        }
        assert!(oldest(1_000, BEGINNING, |_| ready(Ok::<_, ()>(None))).await.unwrap() <= 1_000);
        assert_eq!(oldest(1_760_000_000, BEGINNING, |_| ready(Err("away"))).await, Err("away"));
    }
}
