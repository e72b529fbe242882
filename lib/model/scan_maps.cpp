// Rows of the matrices that a selective scan stands for.
#include "lib/model/scan_maps.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/error.h"

namespace vmamba {
namespace {

double softplus(double x) {
  return x > 20 ? x : std::log1p(std::exp(x));
}

// One direction of a scan over one map.
class Direction {
 public:
  Direction(const ScanInput& input, const ScanParameters<double>& parameters, ScanOrder order, int k)
      : input_(input),
        parameters_(parameters),
        direction_(scan_direction(order, k)),
        k_(k),
        height_(input.x.dims.at(0)),
        width_(input.x.dims.at(1)),
        channels_(input.x.dims.at(2)),
        states_(parameters.A.dims.at(2)),
        all_(input.projections.dims.at(2)),
        per_direction_(all_ / direction_count(order)),
        rank_(per_direction_ - 2 * states_) {}

  // Pixel of step i of the sequence, and back.
  int64_t pixel(int64_t step) const {
    const int64_t at = direction_.reversed ? height_ * width_ - 1 - step : step;
    return direction_.columns ? at % height_ * width_ + at / height_ : at;
  }
  int64_t step(int64_t pixel) const {
    const int64_t at = direction_.columns ? pixel % width_ * height_ + pixel / width_ : pixel;
    return direction_.reversed ? height_ * width_ - 1 - at : at;
  }

  double projection(int64_t pixel, int64_t i) const {
    return input_.projections.values[static_cast<size_t>(pixel * all_ + k_ * per_direction_ + i)];
  }
  double B(int64_t pixel, int64_t n) const { return projection(pixel, rank_ + n); }
  double C(int64_t pixel, int64_t n) const { return projection(pixel, rank_ + states_ + n); }
  double x(int64_t pixel, int64_t d) const {
    return input_.x.values[static_cast<size_t>(pixel * channels_ + d)];
  }
  double A(int64_t d, int64_t n) const {
    return parameters_.A.values[static_cast<size_t>((k_ * channels_ + d) * states_ + n)];
  }
  double D(int64_t d) const { return parameters_.D.values[static_cast<size_t>(k_ * channels_ + d)]; }
  double delta(int64_t pixel, int64_t d) const {
    const int64_t kd = k_ * channels_ + d;
    double dt = 0;
    if (parameters_.dt_weight.values.empty())
      dt = projection(pixel, d / (channels_ / rank_));
    else
      for (int64_t r = 0; r < rank_; ++r)
        dt += parameters_.dt_weight.values[static_cast<size_t>(kd * rank_ + r)] * projection(pixel, r);
    return softplus(dt + parameters_.dt_bias.values[static_cast<size_t>(kd)]);
  }

  // The row of output pixel `out`; adds the terms of every pixel and channel to `terms`.
  ScanRow row(int64_t out, std::vector<double>& terms) const {
    const auto pixels = static_cast<size_t>(height_ * width_);
    ScanRow row{std::vector<double>(pixels), std::vector<double>(pixels), std::vector<double>(pixels)};
    std::vector<double> carried(static_cast<size_t>(channels_ * states_));  // C[i] · decay from j to i
    for (int64_t d = 0; d < channels_; ++d)
      for (int64_t n = 0; n < states_; ++n) carried[static_cast<size_t>(d * states_ + n)] = C(out, n);
    const double scale = 1 / static_cast<double>(channels_);
    for (int64_t step_of_j = step(out); step_of_j >= 0; --step_of_j) {
      const int64_t j = pixel(step_of_j);
      const auto at = static_cast<size_t>(j);
      for (int64_t d = 0; d < channels_; ++d) {
        double* states = &carried[static_cast<size_t>(d * states_)];
        const double of_j = delta(j, d);
        double weight = 0;
        for (int64_t n = 0; n < states_; ++n) {
          weight += states[n] * B(j, n);
          states[n] *= std::exp(of_j * A(d, n));
        }
        weight *= of_j;
        const double term = (weight + (j == out ? D(d) : 0)) * x(j, d);
        row.weight[at] += scale * weight;
        row.contribution[at] += scale * term;
        row.magnitude[at] += scale * std::abs(term);
        terms[at * static_cast<size_t>(channels_) + static_cast<size_t>(d)] += term;
      }
    }
    return row;
  }

  std::vector<double> decay() const {
    const int64_t pixels = height_ * width_;
    std::vector<double> lengths;
    for (int64_t d = 0; d < channels_; ++d) {
      double mean = 0;
      for (int64_t j = 0; j < pixels; ++j) mean += delta(j, d) / static_cast<double>(pixels);
      for (int64_t n = 0; n < states_; ++n) {
        const double length = 1 / (mean * std::abs(A(d, n)));
        lengths.push_back(std::isnan(length) ? std::numeric_limits<double>::infinity() : length);
      }
    }
    std::ranges::sort(lengths);
    return lengths;
  }

 private:
  const ScanInput& input_;
  const ScanParameters<double>& parameters_;
  const ScanDirection direction_;
  const int64_t k_, height_, width_, channels_, states_, all_, per_direction_, rank_;
};

}  // namespace

ScanMaps scan_maps(const ScanInput& input, const ScanParameters<double>& parameters, ScanOrder order,
                   int64_t row, int64_t column) {
  check(!scan_direction(order, 0).per_line, "a scan line by line");
  ScanMaps maps;
  maps.height = input.x.dims.at(0);
  maps.width = input.x.dims.at(1);
  check(row >= 0 && row < maps.height && column >= 0 && column < maps.width, "pixel ({}, {}) of a map {}",
        row, column, shape_string(input.x.dims));
  const auto pixels = static_cast<size_t>(maps.height * maps.width),
             channels = static_cast<size_t>(input.x.dims.at(2));
  std::vector<double> terms(pixels * channels);
  ScanRow& merged = maps.merged;
  merged = {std::vector<double>(pixels), std::vector<double>(pixels), std::vector<double>(pixels)};
  for (int k = 0; k < direction_count(order); ++k) {
    const Direction direction(input, parameters, order, k);
    maps.directions.push_back(direction.row(row * maps.width + column, terms));
    maps.decay.push_back(direction.decay());
    for (size_t j = 0; j < pixels; ++j) {
      merged.weight[j] += maps.directions.back().weight[j];
      merged.contribution[j] += maps.directions.back().contribution[j];
    }
  }
  for (size_t j = 0; j < pixels; ++j)
    for (size_t d = 0; d < channels; ++d)
      merged.magnitude[j] += std::abs(terms[j * channels + d]) / static_cast<double>(channels);
  return maps;
}

}  // namespace vmamba
