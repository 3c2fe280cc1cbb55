//! The documentation of the program, a page a topic: shown here, by a server below `/docs`, and by `streamgauge help TOPIC`.

/// A page of the documentation.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// What it is asked for by, as in `streamgauge help metrics`.
    pub name: &'static str,
    /// Markdown: a title, a line that says what the page is for, then the rest.
    pub text: &'static str,
}

impl Page {
    pub fn title(&self) -> &'static str {
        self.text.lines().next().unwrap_or_default().trim_start_matches("# ")
    }

    /// One sentence.
    pub fn summary(&self) -> &'static str {
        self.text.lines().nth(2).unwrap_or_default()
    }
}

/// The page of this name, in any case.
pub fn page(name: &str) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.name.eq_ignore_ascii_case(name))
}

/// Declares each page once: as an entry of [`PAGES`], and as a module that shows it in this documentation.
macro_rules! pages {
    ($($name:ident)*) => {
        /// All pages, in the order in which they are best read.
        pub const PAGES: &[Page] = &[$(Page { name: stringify!($name), text: include_str!(concat!(stringify!($name), ".md")) }),*];

        $(
            #[doc = include_str!(concat!(stringify!($name), ".md"))]
            pub mod $name {}
        )*
    };
}

pages! { program tables changes queries zones resume server access state memory settings metrics differences library speed fuzzing }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_a_title_and_says_what_it_is_for() {
        for page in PAGES {
            assert!(page.text.starts_with("# ") && page.title().len() > 3, "{}", page.name);
            assert!(page.summary().ends_with(['.', ')']), "{}: {}", page.name, page.summary());
            // Pages are read in several places, so none can say where another is.
            assert!(!page.text.contains("](") || page.text.contains("](http"), "{} has a link that leads nowhere", page.name);
        }
    }
}
