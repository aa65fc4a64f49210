use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::*;
use crate::{
    encryption,
    users::{Filter, Order, Role},
};

const SEED: u64 = 20_261_126;

fn keys(of: &[u8]) -> Encryption {
    let encryption = Encryption::default();
    let all: Vec<_> = of.iter().map(|byte| encryption::Key::new([*byte; 32])).collect();
    encryption.replace(all.last().unwrap().clone(), all);
    encryption
}

fn text(rng: &mut StdRng) -> String {
    let length = rng.random_range(0..=255);
    (0..length).map(|_| *['a', 'Z', ' ', '"', '\\', 'é', '例', '😀', '\u{1}'].choose(rng).unwrap()).collect()
}

fn time(rng: &mut StdRng) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(rng.random_range(-1 << 55..1 << 55)).unwrap()
}

fn selection(rng: &mut StdRng) -> Selection {
    let filter = Filter {
        search: rng.random_bool(0.3).then(|| text(rng)),
        role: *[None, Some(Role::User), Some(Role::Admin)].choose(rng).unwrap(),
        is_active: *[None, Some(true), Some(false)].choose(rng).unwrap(),
        email_verified: *[None, Some(true), Some(false)].choose(rng).unwrap(),
        created_after: rng.random_bool(0.3).then(|| time(rng)),
        created_before: rng.random_bool(0.3).then(|| time(rng)),
    };
    let sorts = [SortBy::CreatedAt, SortBy::Email, SortBy::Name, SortBy::LastLoginAt];
    Selection {
        filter,
        sort_by: *sorts.choose(rng).unwrap(),
        order: *[Order::Asc, Order::Desc].choose(rng).unwrap(),
    }
}

fn position(rng: &mut StdRng, selection: &Selection) -> Position {
    let key = match selection.sort_by {
        SortBy::CreatedAt => Key::Time(Some(time(rng))),
        SortBy::LastLoginAt => Key::Time(rng.random_bool(0.5).then(|| time(rng))),
        SortBy::Email | SortBy::Name => Key::Text(text(rng)),
    };
    let rank = selection.filter.search.as_ref().map(|_| rng.random_range(0..3));
    Position { rank, key, id: UserId::generate(), wide: rng.random_bool(0.5) }
}

#[test]
fn a_cursor_leads_to_its_place_in_its_list_and_in_no_other() {
    let (mut rng, keys) = (StdRng::seed_from_u64(SEED), keys(&[1]));
    for _ in 0..2_000 {
        let (tenant, list) = (TenantId::generate(), selection(&mut rng));
        let place = position(&mut rng, &list);
        let cursor = place.to_cursor(&keys, tenant, &list).unwrap();
        assert!(cursor.len() <= LONGEST, "{} characters", cursor.len());
        assert_eq!(Position::from_cursor(&cursor, &keys, tenant, &list).unwrap(), place);

        if let Key::Text(name) = &place.key
            && name.len() > 8
        {
            let bytes = URL_SAFE_NO_PAD.decode(&cursor).unwrap();
            assert!(!bytes.windows(name.len()).any(|part| part == name.as_bytes()), "it tells no name");
        }

        let elsewhere = Position::from_cursor(&cursor, &keys, TenantId::generate(), &list);
        assert!(matches!(elsewhere, Err(Error::WrongCursor)), "another tenant's");
        let other = selection(&mut rng);
        assert!(
            other == list || Position::from_cursor(&cursor, &keys, tenant, &other).is_err(),
            "{list:?} {other:?}"
        );
    }
}

#[test]
fn whatever_else_comes_is_refused() {
    let (mut rng, keys) = (StdRng::seed_from_u64(SEED), keys(&[1]));
    let (tenant, list) = (TenantId::generate(), selection(&mut rng));
    let refused = |cursor: &str| {
        let found = Position::from_cursor(cursor, &keys, tenant, &list);
        assert!(matches!(found, Err(Error::WrongCursor)), "{cursor:?}: {found:?}");
    };
    let cursor = position(&mut rng, &list).to_cursor(&keys, tenant, &list).unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(&cursor).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        refused(&URL_SAFE_NO_PAD.encode(changed));
    }
    for length in 0..bytes.len() {
        refused(&URL_SAFE_NO_PAD.encode(&bytes[..length]));
        refused(&cursor[..length.min(cursor.len() - 1)]);
    }
    for _ in 0..5_000 {
        let length = rng.random_range(0..200);
        let random: Vec<u8> = (0..length).map(|_| rng.random()).collect();
        refused(&URL_SAFE_NO_PAD.encode(&random));
        refused(&String::from_utf8_lossy(&random));
        let mut more = bytes.clone();
        more.insert(rng.random_range(0..=bytes.len()), rng.random());
        refused(&URL_SAFE_NO_PAD.encode(more));
    }
    refused(&"A".repeat(1 << 20));
    refused(&format!("{cursor}="));
    // Signed by somebody who has another key, and by one who has ours for what is no place in this list.
    let place = position(&mut rng, &list);
    refused(&place.to_cursor(&self::keys(&[2]), tenant, &list).unwrap());
    let unlike = Position { rank: place.rank.is_none().then_some(0), ..place };
    refused(&unlike.to_cursor(&keys, tenant, &list).unwrap());
}

#[test]
fn a_new_key_leaves_cursors_valid_until_theirs_is_gone() {
    let mut rng = StdRng::seed_from_u64(SEED);
    let (tenant, list) = (TenantId::generate(), selection(&mut rng));
    let place = position(&mut rng, &list);
    let old = place.to_cursor(&keys(&[1]), tenant, &list).unwrap();
    let new = place.to_cursor(&keys(&[1, 2]), tenant, &list).unwrap();
    assert_ne!(old, new);
    for (there, cursor, is_valid) in
        [(&[1, 2][..], &old, true), (&[1, 2], &new, true), (&[2], &new, true), (&[2], &old, false)]
    {
        assert_eq!(Position::from_cursor(cursor, &keys(there), tenant, &list).is_ok(), is_valid, "{there:?}");
    }
    assert!(
        place.to_cursor(&Encryption::default(), tenant, &list).is_err(),
        "without a key nothing is encrypted"
    );
}
