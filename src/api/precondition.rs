//! `If-Match`: a change of one version of a record and of no other.

use poem::{Request, RequestBody};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaParamIn, MetaSchema, MetaSchemaRef},
};
use tenantry_accounts::{self as accounts, users::IfMatch};

use super::envelope::Condition;
use crate::error::ApiError;

/// What a change depends on. All lines of the header are one list, and what cannot be read is a tag that never matches: no
/// condition is passed over.
pub(crate) struct Precondition(Option<Condition>);

impl<'a> ApiExtractor<'a> for Precondition {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];

    type ParamType = ();
    type ParamRawType = ();

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Header)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        let example = Some("\"7\"".into());
        Some(MetaSchemaRef::Inline(Box::new(MetaSchema { example, ..MetaSchema::new("string") })))
    }

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let lines = request.headers().get_all("if-match").iter();
        let lines: Vec<_> = lines.map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
        Ok(Self((!lines.is_empty()).then(|| Condition::parse(&lines.join(",")))))
    }
}

impl Precondition {
    /// The versions that the record may have; `*` asks for none in particular.
    pub(crate) fn versions(self) -> IfMatch {
        match self.0? {
            Condition::Any => None,
            Condition::Versions(versions) => Some(versions),
        }
    }

    /// Of a record that has no versions: whoever names one believes in what is not there.
    pub(crate) fn of_no_version(self) -> Result<(), ApiError> {
        match self.versions() {
            None => Ok(()),
            Some(_) => Err(accounts::Error::VersionChanged.into()),
        }
    }
}
