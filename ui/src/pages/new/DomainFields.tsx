import type { Faults } from "../../api/problem";
import { Input, Select } from "../../parts/Fields";
import { MoreFields, SchemaFields } from "../../parts/SchemaFields";
import type { Names } from "../../state/names";
import { CALIBRATION, DOMAIN, type DomainForm } from "./form";

interface Properties {
  domain: DomainForm;
  index: number;
  names: Names;
  faults: Faults;
  change(domain: DomainForm): void;
  drop: (() => void) | undefined;
}

export function DomainFields({ domain, index, names, faults, change, drop }: Properties) {
  const texts = names.datasets.map((each) => ({ value: each.id, label: each.name }));
  const at = `/domains/${index}`;
  return (
    <fieldset class="domain stack" aria-label={`Domain ${index + 1}`}>
      <div class="row">
        <span class="legend">Domain {index + 1}</span>
        {drop && (
          <button type="button" class="link" onClick={drop}>
            Remove<span class="unseen"> domain {index + 1}</span>
          </button>
        )}
      </div>
      <div class="fields">
        <Input label="Name" value={domain.name} onValue={(name) => change({ ...domain, name })} fault={faults(`${at}/name`)} />
        <Select label="Calibration text" value={domain.dataset} choices={[{ value: "", label: "Choose…" }, ...texts]} onValue={(dataset) => change({ ...domain, dataset })} fault={faults(`${at}/dataset`)} />
        <Select label="Evaluation text" value={domain.evaluation} choices={[{ value: "", label: "None" }, ...texts]} onValue={(evaluation) => change({ ...domain, evaluation })} fault={faults(`${at}/evaluation`)} />
      </div>
      <MoreFields title="Calibration" fields={CALIBRATION} values={domain.calibration} onValues={(calibration) => change({ ...domain, calibration })} at={`${at}/calibration`} faults={faults} otherwise="" open={DOMAIN.some(({ name }) => faults(`${at}/${name}`))}>
        <SchemaFields fields={DOMAIN} values={domain.more} onValues={(more) => change({ ...domain, more })} at={at} faults={faults} otherwise="" />
      </MoreFields>
    </fieldset>
  );
}
