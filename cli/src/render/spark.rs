//! A course of numbers as one line of blocks, for where a person would rather look than read.

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// From 0 to the largest value; a space where there is none. At most `width` characters, each the
/// largest value of its stretch, so that a peak is never hidden.
pub(crate) fn spark(values: &[Option<f64>], width: usize) -> String {
    let values: Vec<Option<f64>> = if values.len() > width {
        let stretch = |n: usize| n * values.len() / width;
        (0..width).map(|n| largest(&values[stretch(n)..stretch(n + 1)])).collect()
    } else {
        values.to_vec()
    };
    let top = largest(&values).unwrap_or(0.0);
    let block = |value: &Option<f64>| match value {
        None => ' ',
        Some(_) if top <= 0.0 => BLOCKS[0],
        Some(value) => BLOCKS[((value / top * 8.0).ceil() as usize).clamp(1, 8) - 1],
    };
    values.iter().map(block).collect()
}

fn largest(values: &[Option<f64>]) -> Option<f64> {
    values.iter().flatten().copied().reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_course_is_drawn_from_zero_to_its_peak() {
        let course = [0.0, 4.0, 8.0].map(Some);
        assert_eq!(spark(&course, 10), "▁▄█");
        assert_eq!(spark(&[Some(1.0), None, Some(1.0)], 10), "█ █");
        assert_eq!(spark(&[Some(0.0)], 10), "▁");
        assert_eq!(spark(&[], 10), "");
    }

    #[test]
    fn a_long_course_keeps_its_peaks() {
        let mut course = vec![Some(1.0); 1_000];
        course[517] = Some(100.0);
        let drawn = spark(&course, 20);
        assert_eq!(drawn.chars().count(), 20);
        assert_eq!(drawn.chars().filter(|c| *c == '█').count(), 1);
    }
}
