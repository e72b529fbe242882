// Rows of the implied matrices against the matrices themselves, built from the definition on small maps.
#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "lib/model/scan_maps.h"

using namespace vmamba;

namespace {

struct Case {
  int64_t height, width, channels, states, rank;
  bool mamba2;
};

double softplus(double x) {
  return std::log1p(std::exp(x));
}

}  // namespace

TEST_CASE("every row is that of the explicit L×L matrix, and its contributions sum to the scan's output") {
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  for (const Case& c : {Case{3, 4, 5, 2, 2, false}, Case{4, 3, 6, 3, 2, true}, Case{1, 5, 2, 16, 1, false}})
    for (const ScanOrder order : {ScanOrder::cross, ScanOrder::unidi, ScanOrder::bidi}) {
      const int64_t L = c.height * c.width, D = c.channels, N = c.states, R = c.rank, K = 4;
      const auto draw = [&](std::vector<int64_t> dims, auto example) {
        HostArray<decltype(example)> array{dims, {}};
        int64_t size = 1;
        for (const int64_t dim : dims) size *= dim;
        for (int64_t i = 0; i < size; ++i)
          array.values.push_back(static_cast<decltype(example)>(normal(random)));
        return array;
      };
      ScanInput input{draw({c.height, c.width, D}, 0.0f), draw({c.height, c.width, K * (R + 2 * N)}, 0.0f)};
      ScanParameters<double> p{{}, draw({K, D}, 0.0), draw({K, D}, 0.0), draw({K, D, N}, 0.0)};
      if (!c.mamba2) p.dt_weight = draw({K, D, R}, 0.0);
      for (double& a : p.A.values) a = -std::exp(a);

      const auto pixel = [&](int64_t k, int64_t step) {
        const ScanDirection direction = scan_direction(order, static_cast<int>(k));
        const int64_t at = direction.reversed ? L - 1 - step : step;
        return direction.columns ? at % c.height * c.width + at / c.height : at;
      };
      const auto projected = [&](int64_t k, int64_t at, int64_t i) {
        return static_cast<double>(
            input.projections.values[static_cast<size_t>(at * K * (R + 2 * N) + k * (R + 2 * N) + i)]);
      };
      const auto delta = [&](int64_t k, int64_t at, int64_t d) {
        double dt = c.mamba2 ? projected(k, at, d / (D / R)) : 0;
        if (!c.mamba2)
          for (int64_t r = 0; r < R; ++r)
            dt += p.dt_weight.values[static_cast<size_t>((k * D + d) * R + r)] * projected(k, at, r);
        return softplus(dt + p.dt_bias.values[static_cast<size_t>(k * D + d)]);
      };
      const auto x = [&](int64_t at, int64_t d) {
        return static_cast<double>(input.x.values[static_cast<size_t>(at * D + d)]);
      };
      // M[k][i][j][d], in pixels
      std::vector<double> matrix(static_cast<size_t>(K * L * L * D));
      const auto M = [&](int64_t k, int64_t i, int64_t j, int64_t d) -> double& {
        return matrix[static_cast<size_t>(((k * L + i) * L + j) * D + d)];
      };
      for (int64_t k = 0; k < K; ++k)
        for (int64_t i = 0; i < L; ++i)
          for (int64_t j = 0; j <= i; ++j)
            for (int64_t d = 0; d < D; ++d)
              for (int64_t n = 0; n < N; ++n) {
                double sum = 0;
                for (int64_t l = j + 1; l <= i; ++l) sum += delta(k, pixel(k, l), d);
                const int64_t pi = pixel(k, i), pj = pixel(k, j);
                M(k, pi, pj, d) += projected(k, pi, R + N + n) *
                                   std::exp(p.A.values[static_cast<size_t>((k * D + d) * N + n)] * sum) *
                                   delta(k, pj, d) * projected(k, pj, R + n);
              }
      for (int64_t i = 0; i < L; ++i) {
        const ScanMaps maps = scan_maps(input, p, order, i / c.width, i % c.width);
        REQUIRE(maps.directions.size() == 4);
        double off = 0;
        for (int64_t j = 0; j < L; ++j) {
          const auto at = static_cast<size_t>(j);
          std::vector<double> merged(static_cast<size_t>(D));
          double merged_weight = 0;
          for (int64_t k = 0; k < K; ++k) {
            double weight = 0, contribution = 0, magnitude = 0;
            for (int64_t d = 0; d < D; ++d) {
              const double term =
                  (M(k, i, j, d) + (i == j ? p.D.values[static_cast<size_t>(k * D + d)] : 0)) * x(j, d);
              weight += M(k, i, j, d) / static_cast<double>(D);
              contribution += term / static_cast<double>(D);
              magnitude += std::abs(term) / static_cast<double>(D);
              merged[static_cast<size_t>(d)] += term;
            }
            const ScanRow& row = maps.directions[static_cast<size_t>(k)];
            merged_weight += weight;
            for (const double difference : {row.weight[at] - weight, row.contribution[at] - contribution,
                                            row.magnitude[at] - magnitude})
              off = std::max(off, std::abs(difference));
          }
          double magnitude = 0, contribution = 0;
          for (const double term : merged) {
            magnitude += std::abs(term) / static_cast<double>(D);
            contribution += term / static_cast<double>(D);
          }
          for (const double difference :
               {maps.merged.weight[at] - merged_weight, maps.merged.magnitude[at] - magnitude,
                maps.merged.contribution[at] - contribution})
            off = std::max(off, std::abs(difference));
        }
        CHECK(off < 1e-10);
      }
    }
}

TEST_CASE("decay lengths are 1 / (|A| · mean Δ), sorted") {
  // One channel, two states, constant Δ = softplus(0.5).
  ScanInput input{{{2, 2, 1}, std::vector<float>(4, 1)}, {{2, 2, 4 * 5}, std::vector<float>(80, 0)}};
  ScanParameters<double> p{{{4, 1, 1}, std::vector<double>(4, 1)},
                           {{4, 1}, std::vector<double>(4, 0.5)},
                           {{4, 1}, std::vector<double>(4, 1)},
                           {{4, 1, 2}, {-1, -4, -1, -4, -1, -4, -1, -4}}};
  const ScanMaps maps = scan_maps(input, p, ScanOrder::cross, 1, 1);
  REQUIRE(maps.decay.size() == 4);
  for (const auto& lengths : maps.decay) {
    REQUIRE(lengths.size() == 2);
    CHECK(lengths[0] == doctest::Approx(1 / (4 * softplus(0.5))));
    CHECK(lengths[1] == doctest::Approx(1 / softplus(0.5)));
  }
}
