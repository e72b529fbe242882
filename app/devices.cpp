// devices: lists the devices, and the reason why one cannot be used.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <memory>

#include "app/commands.h"
#include "app/model_options.h"
#include "kernels/error.h"
#include "kernels/kernels.h"
#include "lib/support/json.h"
#include "lib/support/text.h"

namespace vmamba {
namespace {

std::vector<std::string_view> dtypes(Device device) {
  std::vector<std::string_view> names = names_of<Precision>();
  std::erase_if(names, [&](auto name) { return !runs_on(device.type, find_name<Precision>(name)->value); });
  return names;
}

int run_devices(const std::string& format) {
  const std::vector<DeviceReport> reports = list_devices();
  const auto first = std::ranges::find_if(reports, [](const DeviceReport& report) {
    return report.usable && report.device.type != DeviceType::cpu;
  });
  const Device automatic = first == reports.end() ? Device{} : first->device;
  if (format == "json") {
    nlohmann::ordered_json devices = nlohmann::ordered_json::array();
    for (const DeviceReport& report : reports) {
      nlohmann::ordered_json entry{
          {"device", to_string(report.device)}, {"name", report.name}, {"usable", report.usable}};
      if (report.usable)
        entry["dtypes"] = dtypes(report.device);
      else
        entry["why_not"] = report.why_not;
      devices.push_back(std::move(entry));
    }
    fmt::print("{}\n", dump_json({{"devices", devices}, {"auto", to_string(automatic)}}, 2));
    return 0;
  }
  for (const DeviceReport& report : reports) {
    fmt::print("{:<8} {}\n", to_string(report.device), report.usable ? report.name : "not usable");
    if (report.usable)
      fmt::print("         dtypes {}\n", joined(dtypes(report.device)));
    else
      fmt::print("         {}\n", report.why_not);
  }
  fmt::print("--device auto: {}\n", to_string(automatic));
  return 0;
}

}  // namespace

Command add_devices(CLI::App& app) {
  CLI::App* parser = app.add_subcommand(
      "devices", "List the devices and what each supports, with the reason for what is missing");
  const auto format = std::make_shared<std::string>("text");
  parser->add_option("--format", *format, "text or json")
      ->type_name("FORMAT")
      ->check(CLI::IsMember({"text", "json"}).description(""))
      ->capture_default_str();
  return {parser, [format] { return run_devices(*format); }};
}

}  // namespace vmamba
