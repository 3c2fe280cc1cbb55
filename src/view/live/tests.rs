use arrow::array::{ArrayRef, AsArray, Int64Array, StringViewArray};
use arrow::datatypes::Int64Type;
use bytes::Bytes;

use super::super::history::{COLUMN_BYTES, ENTRY_BYTES};
use super::*;

fn numbers(values: impl IntoIterator<Item = i64>) -> Changes {
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
    let times = TimestampArray::from_value(0, values.len());
    Changes::inserts(RecordBatch::try_from_iter([("n", values)]).unwrap(), times)
}

fn live() -> Arc<Live> {
    Arc::new(Live::new("v", numbers([]).rows.schema(), false, Rows::appended(1000)))
}

fn entry(followed: Followed) -> (u64, u64) {
    match followed {
        Followed::Entry(entry) => (entry.first, entry.last),
        Followed::Gap { oldest } => panic!("a gap before {oldest}"),
        Followed::Dropped => panic!("dropped"),
    }
}

#[tokio::test]
async fn a_follower_from_a_snapshot_misses_nothing_and_sees_nothing_twice() {
    let live = live();
    live.publish(numbers([1, 2]), Timestamp(1)).unwrap();
    let snapshot = live.snapshot().unwrap();
    assert_eq!((snapshot.seq, snapshot.rows.num_rows()), (2, 2));
    let mut follower = live.follow(snapshot.seq);
    let waiting = tokio::spawn(async move { (entry(follower.next().await), follower) });
    live.publish(numbers([3]), Timestamp(2)).unwrap();
    live.publish(numbers([4, 5]), Timestamp(3)).unwrap();
    let (first, mut follower) = waiting.await.unwrap();
    assert_eq!(first, (3, 3));
    assert_eq!(entry(follower.next().await), (4, 5));
    assert!(follower.ready(10).is_empty());
    // From the middle of what was published together, the whole of it comes.
    assert_eq!(entry(live.follow(4).next().await), (4, 5));
    live.enter(Health::Dropped);
    assert!(matches!(follower.next().await, Followed::Dropped));
}

#[tokio::test]
async fn what_was_forgotten_or_never_was_is_a_gap() {
    let live = live();
    for _ in 0..3 {
        live.publish(numbers(0..HISTORY_CHANGES_MAX as i64), Timestamp(1)).unwrap();
    }
    let oldest = live.oldest();
    assert!(oldest > 1 && oldest <= live.head());
    for after in [0, oldest - 2, live.head() + 1] {
        assert!(matches!(live.follow(after).next().await, Followed::Gap { oldest: told } if told == oldest), "{after}");
    }
    assert_eq!(entry(live.follow(oldest - 1).next().await).0, oldest);
}

#[test]
fn changes_that_come_one_by_one_keep_within_the_memory_of_the_history() {
    let live = live();
    let each = ENTRY_BYTES + COLUMN_BYTES;
    let most = HISTORY_BYTES_MAX / each;
    for number in 0..2 * most {
        live.publish(numbers([number as i64]), Timestamp(1)).unwrap();
    }
    let kept = live.head() + 1 - live.oldest();
    assert!(kept as usize <= most && kept as usize * 2 > most, "{kept} of {most}");
}

#[test]
fn changes_are_encoded_once_and_their_bytes_are_counted_while_they_are_kept() {
    let live = live();
    live.publish(numbers([1]), Timestamp(1)).unwrap();
    let key: Arc<str> = "json".into();
    let Followed::Entry(entry) = live.after(0, 1).remove(0) else { panic!("no entry") };
    let before = live.size().1;
    assert_eq!(entry.encoded(&key, || Bytes::from_static(b"[1]")), "[1]");
    assert_eq!(entry.encoded(&key, || panic!("encoded again")), "[1]");
    assert_eq!(live.size().1, before + 3);
}

#[test]
fn a_snapshot_is_in_the_order_of_the_view() {
    let live = Live::new("v", numbers([]).rows.schema(), false, Rows::appended(3)).ordered(vec![Order {
        expr: Arc::new(datafusion::physical_expr::expressions::Column::new("n", 0)),
        options: SortOptions { descending: true, nulls_first: false },
    }]);
    live.publish(numbers([9, 2, 7, 4]), Timestamp(1)).unwrap();
    let snapshot = live.snapshot().unwrap();
    assert_eq!(snapshot.rows.column(0).as_primitive::<Int64Type>().values(), &[7, 4, 2]);
}

#[test]
fn no_two_views_share_an_epoch() {
    let epochs = [live(), live(), live()].map(|live| live.epoch());
    assert!(epochs.is_sorted_by(|one, next| one < next), "{epochs:?}");
}

/// Rows with a text of so many letters.
fn wide(letters: usize, rows: usize) -> Changes {
    let texts: ArrayRef = Arc::new(StringViewArray::from_iter_values((0..rows).map(|_| "x".repeat(letters))));
    let times = TimestampArray::from_value(0, rows);
    Changes::inserts(RecordBatch::try_from_iter([("text", texts)]).unwrap(), times)
}

#[test]
fn a_row_cut_out_of_a_batch_does_not_keep_the_batch() {
    let batch = wide(4_000, 500);
    let live = Arc::new(Live::new("v", batch.rows.schema(), false, Rows::appended(1000)));
    for row in 0..100 {
        live.publish(batch.slice(row, 1), Timestamp(1)).unwrap();
    }
    let held = live.held();
    assert!(held.all > 400_000 && held.all < 1_000_000, "{held:?}");
}

#[test]
fn wide_changes_keep_within_the_memory_of_the_history() {
    let live = Arc::new(Live::new("v", wide(1, 1).rows.schema(), false, Rows::appended(10)));
    for _ in 0..1_000 {
        live.publish(wide(100_000, 1), Timestamp(1)).unwrap();
    }
    let held = live.held();
    assert!(held.history > HISTORY_BYTES_MAX / 2 && held.all < HISTORY_BYTES_MAX + 2_000_000, "{held:?}");
    assert!(live.head() + 1 - live.oldest() < 400);
}

#[test]
fn a_history_is_shortened_and_keeps_the_latest_and_rows_by_retention_give_way_too() {
    let live = Arc::new(Live::new("v", wide(1, 1).rows.schema(), false, Rows::appended(100)));
    for _ in 0..200 {
        live.publish(wide(10_000, 1), Timestamp(1)).unwrap();
    }
    let before = live.held();
    // Of the changes, the rows have the latest hundred.
    assert!(before.history > 900_000 && before.rows > 900_000 && before.all < 4_500_000, "{before:?}");
    let freed = live.shorten_history(500_000);
    assert!(freed > 400_000 && live.held().history <= 520_000, "{freed} {:?}", live.held());
    live.shorten_history(0);
    let freed = live.shorten_rows(100_000);
    assert!(freed > 800_000 && live.held().rows <= 100_000 && live.size().0 < 10, "{freed} {:?}", live.held());
    assert_eq!(live.snapshot().unwrap().rows.num_rows(), live.size().0);
    live.shorten_history(0);
    assert!(live.oldest() + 10 > live.head(), "{}", live.oldest());
    live.clear().unwrap();
    assert_eq!((live.size().0, live.held().rows, live.oldest()), (0, 0, live.head() + 1));
}

#[test]
fn the_openings_of_a_store_have_epochs_of_their_own_whatever_the_clock_says() {
    let opened = |opening| {
        begin_epochs(opening);
        live().epoch()
    };
    // Greater than what other tests have begun with; the third is the second put back.
    let epochs = [1 << 40, (1 << 40) + 1, (1 << 40) + 1].map(opened);
    assert!(epochs.is_sorted_by(|one, next| one < next), "{epochs:?}");
    assert_eq!(epochs.map(|epoch| epoch >> EPOCH_BITS), [1 << 40, (1 << 40) + 1, (1 << 40) + 1]);
}
