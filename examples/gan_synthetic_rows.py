"""A generative adversarial network: synthetic rows of numbers and labels, and how they differ from the real ones."""

import numpy as np
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier

import ppl_gen as pg


def main(max_steps: int = 3000, ratio_steps: int = 500) -> float:
    wine = load_wine(as_frame=True)
    columns = ["alcohol", "flavanoids", "color_intensity", "proline"]
    table = wine.data[columns].assign(cultivar=np.array(["A", "B", "C"])[wine.target])
    table = table.sample(frac=1.0, random_state=0, ignore_index=True)
    train, test = table[:120], table[120:]
    family = pg.GAN(generator_hidden=(64,), discriminator_hidden=(64,))
    engine = pg.Adversarial(max_steps=max_steps, ratio_steps=ratio_steps, num_members=1)
    fit = pg.fit(family, train, engine=engine, seed=0)

    rows = fit.sample(500, seed=1)
    print("Synthetic rows, of the columns and dtypes of the table:")
    print(rows.head(3).round(2).to_string(index=False))
    print("\nMeans of the table and of the synthetic rows:")
    print(train[columns].mean().to_frame("table").assign(synthetic=rows[columns].mean()).round(2).T)

    right = {}
    for name, source in (("real", train), ("synthetic", rows)):
        forest = RandomForestClassifier(random_state=0).fit(source[columns], source["cultivar"])
        right[name] = forest.score(test[columns], test["cultivar"])
    print(f"\nCultivars of {len(test)} real wines, by a forest trained on real rows: {right['real']:.0%}, "
          f"on synthetic ones: {right['synthetic']:.0%}")  # fmt: skip
    print("A GAN has no density: fit.score names what stands for it, and fit.diagnose looks for modes that it misses.")
    return right["synthetic"]


if __name__ == "__main__":
    main()
