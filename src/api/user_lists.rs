//! Lists of users: what is asked for, and what they look like.

use chrono::{DateTime, Utc};
use poem_openapi::{ApiResponse, Enum, Object, Union};
use serde::Serialize;
use tenantry_accounts::{
    Actor, TenantId,
    users::{
        self, DEEPEST, Figures, Filter, List, Order, Part, Position, Role, Selection, SortBy, User, Wanted,
    },
};

use super::{
    body::wrong,
    envelope::{Cursor, Envelope, Pagination},
    params::{Limit, ListCursor, MinVersion, PageNumber, Param, Search, closed},
};
use crate::{
    error::{ApiError, FieldError},
    state::State,
};

#[derive(ApiResponse)]
pub(super) enum UserPage {
    /// A page or a part of the list.
    #[oai(status = 200)]
    Page(Envelope<Vec<ListedUser>, UserPagination>),
}

/// A user in a list.
#[derive(Serialize, Object)]
pub(super) struct ListedUser {
    #[serde(flatten)]
    #[oai(flatten)]
    user: User,
    /// Figures of the user; only with `include=stats`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    stats: Option<Figures>,
}

/// What a list may bring beside the users.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case", rename = "UserInclude")]
pub(super) enum Include {
    /// Figures of each user.
    Stats,
}

closed!(Include: ["stats" => Include::Stats] "Must be stats");

/// Where a page stands among all, or where the next part begins.
#[derive(Serialize, Union)]
#[serde(untagged)]
#[oai(one_of)]
pub(super) enum UserPagination {
    Page(Pagination),
    Part(Cursor),
}

/// The parameters of a list.
pub(super) struct Asked {
    pub(super) page: Param<PageNumber>,
    pub(super) cursor: Param<ListCursor>,
    pub(super) limit: Param<Limit>,
    pub(super) search: Param<Search>,
    pub(super) role: Param<Role>,
    pub(super) is_active: Param<bool>,
    pub(super) email_verified: Param<bool>,
    pub(super) created_after: Param<DateTime<Utc>>,
    pub(super) created_before: Param<DateTime<Utc>>,
    pub(super) sort_by: Param<SortBy>,
    pub(super) sort_order: Param<Order>,
    pub(super) include: Param<Include>,
    pub(super) min_version: Param<MinVersion>,
}

/// The list that is asked for.
pub(super) async fn list(state: &State, actor: Actor, asked: Asked) -> Result<UserPage, ApiError> {
    let tenant = actor.tenant;
    // Whatever version: the database has every change that anybody was told of.
    let anew = asked.min_version.header()?.is_some();
    let mut errors = vec![];
    let page = asked.page.take("page", &mut errors).map(|page| page.0);
    let cursor = asked.cursor.take("cursor", &mut errors);
    let limit = asked.limit.take("limit", &mut errors).map_or(10, |limit| limit.0);
    let filter = Filter {
        search: asked.search.take("search", &mut errors).map(|search| search.0),
        role: asked.role.take("role", &mut errors),
        is_active: Some(asked.is_active.take("is_active", &mut errors).unwrap_or(true)),
        email_verified: asked.email_verified.take("email_verified", &mut errors),
        created_after: asked.created_after.take("created_after", &mut errors),
        created_before: asked.created_before.take("created_before", &mut errors),
    };
    let sort_by = asked.sort_by.take("sort_by", &mut errors).unwrap_or(SortBy::CreatedAt);
    let order = asked.sort_order.take("sort_order", &mut errors).unwrap_or(Order::Desc);
    let figures = asked.include.take("include", &mut errors).is_some();
    let page = page_or_part(page, cursor.is_some(), limit, &mut errors);
    if !errors.is_empty() {
        return Err(ApiError::invalid(errors));
    }
    if figures {
        actor.require(Role::Admin)?;
    }
    let selection = Selection { filter, sort_by, order };
    let part = match cursor {
        None => Part::Page { offset: (page - 1) * limit },
        Some(ListCursor::First) => Part::After(None),
        Some(ListCursor::Next(cursor)) => {
            Part::After(Some(Position::from_cursor(&cursor, &state.app.encryption, tenant, &selection)?))
        }
    };
    let wanted = Wanted { selection: selection.clone(), part, limit, figures };
    let found = users::list(&state.app, tenant, wanted, anew).await?;
    let pagination = pagination(state, tenant, &selection, (page, limit), &found)?;
    Ok(UserPage::Page(match figures {
        true => {
            let users = found.users.iter().cloned().zip(&found.figures);
            let users: Vec<_> = users.map(|(user, stats)| ListedUser { user, stats: Some(*stats) }).collect();
            Envelope::page(&users, &pagination)
        }
        false => Envelope::page(&found.users, &pagination),
    }))
}

/// Which page, unless it is a part that is asked for.
fn page_or_part(page: Option<i64>, is_part: bool, limit: i64, errors: &mut Vec<FieldError>) -> i64 {
    match page {
        Some(_) if is_part => {
            errors.push(wrong("page", "not_allowed", "Cursors know no pages; leave it out"))
        }
        Some(page) if page * limit > DEEPEST => {
            let message =
                "Pages reach the first 10000 users; begin with cursor=first instead, or narrow the list down";
            errors.push(wrong("page", "too_deep", message));
        }
        _ => {}
    }
    page.unwrap_or(1)
}

fn pagination(
    state: &State,
    tenant: TenantId,
    selection: &Selection,
    (page, limit): (i64, i64),
    list: &List,
) -> Result<UserPagination, ApiError> {
    let Some(total) = list.total else {
        let cursor = |next: &Position| next.to_cursor(&state.app.encryption, tenant, selection);
        return Ok(UserPagination::Part(Cursor {
            limit,
            next_cursor: list.next.as_ref().map(cursor).transpose()?,
        }));
    };
    let pages = (total.count + limit - 1) / limit;
    let (total, total_is_estimate) = (total.count, total.is_estimate);
    Ok(UserPagination::Page(Pagination { page, limit, total, total_is_estimate, pages }))
}
