//! `/users/{id}/projects`.

use poem::web::Data;
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Path, Query},
    registry::MetaSchemaRef,
    types::Type,
};
use tenantry_accounts::{
    UserId,
    fields::{FromText, Problem, ProjectId},
    users::projects::{self, Project},
};

use super::{
    Tag,
    envelope::{Cursor, Envelope},
    params::{Limit, Param, Value},
    precondition::Precondition,
};
use crate::{caller::Caller, error::ApiError, state::State};

pub(crate) struct Projects;

impl Value for ProjectId {
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        let first =
            |problems: Vec<Problem>| problems.first().map_or(("invalid", ""), |p| (p.code, p.message));
        Self::from_text(text).map_err(first)
    }

    fn schema() -> MetaSchemaRef {
        Self::schema_ref()
    }
}

#[derive(ApiResponse)]
enum ProjectPage {
    /// A part of the list.
    #[oai(status = 200)]
    Page(Envelope<Vec<Project>, Cursor>),
}

#[derive(ApiResponse)]
enum Settled {
    /// It is so, be it since now or since before.
    #[oai(status = 204)]
    Settled,
}

#[OpenApi(prefix_path = "/users", tag = "Tag::Users")]
impl Projects {
    /// List a user's projects
    ///
    /// By their ids. One's own, or, for administrators, anybody's.
    #[oai(path = "/:id/projects", method = "get", operation_id = "listUserProjects")]
    async fn list(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The user's id.
        id: Path<UserId>,
        /// How many a part holds.
        limit: Query<Param<Limit>>,
        /// Where the part begins: `next_cursor` of the one before.
        cursor: Query<Param<ProjectId>>,
    ) -> Result<ProjectPage, ApiError> {
        let mut errors = vec![];
        let limit = limit.0.take("limit", &mut errors).map_or(10, |limit| limit.0);
        let cursor = cursor.0.take("cursor", &mut errors);
        if !errors.is_empty() {
            return Err(ApiError::invalid(errors));
        }
        let found = projects::list(&state.app, *caller, id.0, cursor, limit + 1).await?;
        let (found, cursor) = Cursor::cut(found, limit, |last| last.project_id.as_str().to_owned());
        Ok(ProjectPage::Page(Envelope::page(&found, &cursor)))
    }

    /// Put a user into a project
    ///
    /// The project is yours: nothing but its id is kept. A user may be in 1,000. For administrators.
    #[oai(path = "/:id/projects/:project_id", method = "put", operation_id = "putUserProject")]
    async fn put(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The user's id.
        id: Path<UserId>,
        /// The project's id.
        project_id: Path<Param<ProjectId>>,
        /// This has no versions: 412 where one is named.
        #[oai(name = "If-Match")]
        if_match: Precondition,
    ) -> Result<Settled, ApiError> {
        if_match.of_no_version()?;
        projects::add(&state.app, *caller, id.0, named(project_id.0)?).await?;
        Ok(Settled::Settled)
    }

    /// Take a user out of a project
    ///
    /// For administrators.
    #[oai(path = "/:id/projects/:project_id", method = "delete", operation_id = "deleteUserProject")]
    async fn delete(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The user's id.
        id: Path<UserId>,
        /// The project's id.
        project_id: Path<Param<ProjectId>>,
        /// This has no versions: 412 where one is named.
        #[oai(name = "If-Match")]
        if_match: Precondition,
    ) -> Result<Settled, ApiError> {
        if_match.of_no_version()?;
        projects::remove(&state.app, *caller, id.0, named(project_id.0)?).await?;
        Ok(Settled::Settled)
    }
}

/// The project of the path, where there always is one.
fn named(project: Param<ProjectId>) -> Result<ProjectId, ApiError> {
    let mut errors = vec![];
    project.take("project_id", &mut errors).ok_or_else(|| ApiError::invalid(errors))
}
