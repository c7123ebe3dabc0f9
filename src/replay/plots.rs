//! The curves of a replay's report.

use std::path::Path;

use plotters::prelude::*;

/// What came of drawing.
pub(super) type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Points along the requests that a curve is drawn with.
const DETAIL: usize = 300;

/// Cost (logarithmic) against quality of every swept policy.
pub(super) fn cost_and_quality(path: &Path, curves: &[(&str, Vec<(f64, f64)>)]) -> Drawn {
    let all = || curves.iter().flat_map(|(_, points)| points.iter());
    let fold = |pick: fn(&(f64, f64)) -> f64| {
        let values = || all().map(pick);
        (
            values().fold(f64::INFINITY, f64::min),
            values().fold(f64::NEG_INFINITY, f64::max),
        )
    };
    let ((left, right), (low, high)) = (fold(|p| p.0.max(1e-9)), fold(|p| p.1));
    let root = SVGBackend::new(path, (900, 560)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d((left * 0.9..right * 1.1).log_scale(), low - 0.01..high + 0.01)?;
    chart
        .configure_mesh()
        .x_desc("dollars a request")
        .y_desc("mean quality")
        .draw()?;
    for (index, (name, points)) in curves.iter().filter(|(_, points)| points.len() > 1).enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        let mut sorted = points.clone();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        chart
            .draw_series(LineSeries::new(sorted, colour.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}

/// Regret against the best model of each prompt, summed so far, over the requests.
pub(super) fn regret(path: &Path, curves: &[(String, Vec<f64>)]) -> Drawn {
    let most = |pick: fn(&[f64]) -> f64| curves.iter().map(|(_, curve)| pick(curve)).fold(0.0, f64::max);
    let requests = most(|curve| curve.len() as f64);
    let highest = most(|curve| curve.iter().copied().fold(0.0, f64::max));
    let root = SVGBackend::new(path, (900, 560)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..requests.max(1.0), 0.0..(highest * 1.05).max(1e-9))?;
    chart
        .configure_mesh()
        .x_desc("requests")
        .y_desc("regret so far")
        .draw()?;
    for (index, (name, curve)) in curves.iter().enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        let every = curve.len().div_ceil(DETAIL).max(1);
        let points = curve
            .iter()
            .enumerate()
            .filter(|(at, _)| (at + 1) % every == 0 || at + 1 == curve.len())
            .map(|(at, regret)| ((at + 1) as f64, *regret));
        let line = std::iter::once((0.0, 0.0)).chain(points);
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}
