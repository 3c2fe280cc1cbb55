//! Lists are answered in pages.

use serde::Serialize;
use utoipa::ToSchema;

use super::problem::{Problem, Result};
use crate::error::{Code, Error};

/// Members of a page where no limit is given.
pub const LIMIT_DEFAULT: usize = 50;

/// The longest page: an answer is built in memory.
pub const LIMIT_MAX: usize = 500;

/// A part of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    pub data: Vec<T>,
    /// There are more behind these.
    pub has_more: bool,
    /// What to give as `starting_after` for the rest.
    pub next: Option<String>,
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, Copy)]
pub struct PageRequest<'a> {
    pub limit: Option<usize>,
    pub offset: usize,
    pub starting_after: Option<&'a str>,
}

impl<T> Page<T> {
    /// The part of a list whose members are told by their names, or by their ids.
    pub fn of(all: impl IntoIterator<Item = T>, part: PageRequest, names: impl Fn(&T) -> [String; 2]) -> Result<Page<T>> {
        let mut all = all.into_iter();
        if let Some(last) = part.starting_after
            && !all.by_ref().any(|one| names(&one).iter().any(|name| name == last))
        {
            let error =
                Error::new(Code::BadOption, format!("starting_after: the list has no '{last}'")).hint("start again without it");
            return Err(Problem::from(error));
        }
        let limit = part.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
        let mut data: Vec<T> = all.skip(part.offset).take(limit + 1).collect();
        let has_more = data.len() > limit;
        data.truncate(limit);
        let next = data.last().filter(|_| has_more).map(|last| names(last).into_iter().next().unwrap_or_default());
        Ok(Page { data, has_more, next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(part: PageRequest) -> Result<Page<&'static str>> {
        Page::of(["a", "b", "c", "d"], part, |name| [name.to_string(), format!("id_{name}")])
    }

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let part = PageRequest { limit: Some(2), offset: 0, starting_after: None };
        let first = page(part).unwrap();
        assert_eq!((first.data, first.has_more, first.next.as_deref()), (vec!["a", "b"], true, Some("b")));
        for after in ["b", "id_b"] {
            let second = page(PageRequest { starting_after: Some(after), ..part }).unwrap();
            assert_eq!((second.data, second.has_more, second.next), (vec!["c", "d"], false, None));
        }
        assert_eq!(page(PageRequest { offset: 3, ..part }).unwrap().data, ["d"]);
        assert_eq!(page(PageRequest { limit: Some(0), ..part }).unwrap().data, ["a"]);
        assert_eq!(page(PageRequest { limit: None, ..part }).unwrap().data.len(), 4);
    }

    #[test]
    fn a_place_that_is_not_there_is_an_error() {
        assert!(page(PageRequest { limit: None, offset: 0, starting_after: Some("x") }).is_err());
    }
}
