//! What mails say: templates that are built in, each of which a file of the same name in `MAIL_TEMPLATES_DIR` takes the
//! place of.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use minijinja::{AutoEscape, Environment, UndefinedBehavior, context};
use tenantry_jobs::{Kind, SecondFactorEvent};

/// The templates of a kind: `KIND.txt`, whose first line is `Subject: ...`, and `KIND.html`.
const BUILT_IN: [(&str, &str); 10] = [
    ("verify_email.txt", include_str!("../templates/verify_email.txt")),
    ("verify_email.html", include_str!("../templates/verify_email.html")),
    ("reset_password_email.txt", include_str!("../templates/reset_password_email.txt")),
    ("reset_password_email.html", include_str!("../templates/reset_password_email.html")),
    ("invitation_email.txt", include_str!("../templates/invitation_email.txt")),
    ("invitation_email.html", include_str!("../templates/invitation_email.html")),
    ("address_notice_email.txt", include_str!("../templates/address_notice_email.txt")),
    ("address_notice_email.html", include_str!("../templates/address_notice_email.html")),
    ("second_factor_notice_email.txt", include_str!("../templates/second_factor_notice_email.txt")),
    ("second_factor_notice_email.html", include_str!("../templates/second_factor_notice_email.html")),
];

/// Writes mails. Cheap to clone.
#[derive(Clone)]
pub struct Letters {
    templates: Arc<Environment<'static>>,
    product: Arc<str>,
}

/// A template that does not do.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The file cannot be read.
    #[error("MAIL_TEMPLATES_DIR: {0} cannot be read: {1}")]
    File(String, #[source] std::io::Error),
    /// The file is not a template, or asks for something that there is not.
    #[error("MAIL_TEMPLATES_DIR: {0}: {1}")]
    Template(String, #[source] minijinja::Error),
    /// The text has no subject.
    #[error("MAIL_TEMPLATES_DIR: {0}: the first line must be `Subject: ...`, the second empty")]
    NoSubject(String),
}

/// What a template is filled with.
#[derive(Clone, Copy)]
pub(crate) struct Content<'a> {
    pub(crate) name: &'a str,
    pub(crate) tenant: &'a str,
    pub(crate) link: &'a str,
    pub(crate) lifetime: Duration,
    /// What happened, for mails that tell of it; else empty.
    pub(crate) event: &'static str,
}

pub(crate) struct Written {
    pub(crate) subject: String,
    pub(crate) text: String,
    pub(crate) html: String,
}

impl Letters {
    /// Takes templates from `folder` where it has them. Each is tried out, so that a mistake stops the start and not a mail.
    ///
    /// # Errors
    /// When a template cannot be read or does not do.
    pub fn new(folder: Option<&Path>, product: &str) -> Result<Self, TemplateError> {
        let mut sources: BTreeMap<&str, String> =
            BUILT_IN.iter().map(|(name, source)| (*name, (*source).to_owned())).collect();
        for (name, source) in &mut sources {
            let Some(path) = folder.map(|folder| folder.join(name)) else { continue };
            match std::fs::read_to_string(&path) {
                Ok(own) => *source = own,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(TemplateError::File((*name).into(), error)),
            }
        }
        let mut templates = Environment::new();
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
        templates.set_auto_escape_callback(|name| {
            if name.ends_with(".html") { AutoEscape::Html } else { AutoEscape::None }
        });
        for (name, source) in sources {
            templates
                .add_template_owned(name, source)
                .map_err(|error| TemplateError::Template(name.into(), error))?;
        }
        let letters = Self { templates: Arc::new(templates), product: product.into() };
        let sample =
            Content { name: "Ada", tenant: "Acme", link: "https://x", lifetime: Duration::ZERO, event: "" };
        for kind in
            [Kind::VerifyEmail, Kind::ResetPasswordEmail, Kind::InvitationEmail, Kind::AddressNoticeEmail]
        {
            letters.write(kind, &sample)?;
        }
        for event in SecondFactorEvent::ALL {
            let sample = Content { event: event.as_str(), ..sample };
            letters.write(Kind::SecondFactorNoticeEmail, &sample)?;
        }
        Ok(letters)
    }

    pub(crate) fn write(&self, kind: Kind, content: &Content<'_>) -> Result<Written, TemplateError> {
        let render = |name: &str| {
            let Content { name: greeted, tenant, link, lifetime, event } = content;
            let template = self.templates.get_template(name)?;
            template.render(context! {
                name => greeted, tenant, link, event, product => &*self.product, lifetime => in_words(*lifetime),
            })
        };
        let rendered = |name: String| match render(&name) {
            Ok(text) => Ok((name, text)),
            Err(error) => Err(TemplateError::Template(name, error)),
        };
        let (name, text) = rendered(format!("{kind}.txt"))?;
        let (_, html) = rendered(format!("{kind}.html"))?;
        let parts = text.strip_prefix("Subject: ").and_then(|text| text.split_once("\n\n"));
        // A subject is one line whatever a tenant calls itself.
        match parts.filter(|(subject, _)| !subject.contains('\n')) {
            Some((subject, text)) => {
                Ok(Written { subject: subject.trim().into(), text: text.to_owned(), html })
            }
            None => Err(TemplateError::NoSubject(name)),
        }
    }
}

fn in_words(time: Duration) -> String {
    let (hours, minutes) = (time.as_secs() / 3600, time.as_secs() / 60);
    match (hours, minutes) {
        (48.., _) if hours % 24 == 0 => format!("{} days", hours / 24),
        (2.., _) => format!("{hours} hours"),
        (1, _) => "an hour".into(),
        _ => format!("{minutes} minutes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_folder_takes_the_place_of_a_template() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("verify_email.txt"),
            "Subject: Hi {{ name }}\n\n{{ product }} {{ link }}",
        )
        .unwrap();
        let letters = Letters::new(Some(folder.path()), "Rocket").unwrap();
        let content = Content {
            name: "A & B",
            tenant: "T",
            link: "https://l",
            lifetime: Duration::from_secs(86_400),
            event: "",
        };
        let written = letters.write(Kind::VerifyEmail, &content).unwrap();
        assert_eq!((&*written.subject, &*written.text), ("Hi A & B", "Rocket https://l"));
        assert!(written.html.contains("A &amp; B") && written.html.contains("24 hours"), "{}", written.html);
    }

    #[test]
    fn a_template_that_does_not_do_stops_the_start_and_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for wrong in ["no subject", "Subject: {{ nmae }}\n\nx", "Subject: {% if %}\n\nx"] {
            std::fs::write(folder.path().join("invitation_email.txt"), wrong).unwrap();
            let error = Letters::new(Some(folder.path()), "").err().unwrap().to_string();
            assert!(error.contains("invitation_email.txt"), "{error}");
        }
    }
}
